"""Flax models as they are: from a trained model to the pure function that the transforms take.

``igjax.flax.linen`` and ``igjax.flax.nnx`` make of a model a function of its parameters and inputs,
in evaluation mode, in which the output of every submodule is named by its path:
``igjax.layer_names`` lists these, and ``igjax.split_at`` and all layer methods take them. The model
is not touched.
"""
