"""Facts about JAX's primitives, by the names that they have in all versions that igjax supports.

Tests compare what is said here with what the primitives do.
"""


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Each entry of a result is an entry of an operand, or a constant. Indices and predicates among the
# operands say which.
MOVES = _names(
    "reshape squeeze transpose broadcast_in_dim tile rev slice split unstack stack concatenate pad"
    " copy name pvary sharding_constraint reshard device_put optimization_barrier"
    " select_n gather scatter dynamic_slice dynamic_update_slice"
)

# Each entry of the result is a function of the entries in the same place of the operands.
ELEMENTWISE = _names(
    "abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp"
    " convert_element_type cos cosh digamma div erf erf_inv erfc exp exp2 expm1 floor integer_pow"
    " lgamma log log1p logistic max min mul neg pow reduce_precision rem round rsqrt select_n sign"
    " sin sinh sqrt square sub tan tanh"
)

# Likewise, but to a truth value, or of truth values.
COMPARES = _names("eq ne ge gt le lt is_finite and or xor not")

# Likewise, of the digits of numbers.
BITWISE = _names(
    "shift_left shift_right_logical shift_right_arithmetic population_count clz nextafter"
)

# Each result is an operand, the same to whoever asks for values alone.
COPIES = _names("copy name pvary sharding_constraint reshard device_put optimization_barrier")

# Each entry of the result is made of the entries along the axes that are called "axes".
REDUCES = _names("reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or argmax argmin")

# Each entry of the result is made of entries along the one that is called "axis".
ACCUMULATES = _names("cumsum cumprod cummax cummin cumlogsumexp")

# Linear in all floating-point operands taken together. `scatter` is, unless it applies a function;
# a conversion is in exact arithmetic, which only a wider type keeps.
LINEAR = _names(
    "add sub neg add_any reduce_sum reduce_window_sum cumsum scatter-add scatter-sub"
    " convert_element_type"
) | (MOVES - {"optimization_barrier", "device_put"})

# Each result is linear in the operand of its number, and depends on no other.
LINEAR_EACH_IN_ITS_OWN = _names("optimization_barrier device_put")

# Linear in either of two operands while the other is constant.
LINEAR_IN_EACH = _names("mul dot_general conv_general_dilated")

# Linear in the first operand while the others are constant.
LINEAR_IN_FIRST = _names("div scatter-mul")

# What calls a function once, on its operands, and by what name that is among its parameters.
CALLS = {
    "jit": "jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",  # what `jax.checkpoint` makes, by another name
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
