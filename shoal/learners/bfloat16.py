"""Matrix products in bfloat16, by rewriting what JAX has traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# Calls that are replaced by what they call: in what was traced, nothing is left to differentiate.
_INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",  # until JAX 0.6
}

_PRODUCTS = "dot_general", "conv_general_dilated"


def rounded(function: Callable[..., Any], convolutions: bool = False) -> Callable[..., Any]:
    """The same function of trees of arrays, its float32 matrix products with factors in bfloat16.

    With ``convolutions``, theirs too: XLA has kernels for that on GPUs, and none on CPUs. Sums of
    products stay in float32, and so does all else. Rewriting what was traced reaches every
    product, those of gradients and of users' own modules too, and inside of loops and branches.
    (JAX's matmul precision does not: XLA's CPU backend, version 0.10.2, computes in float32
    whatever it says.)
    """
    import jax

    def computed(*args: Any) -> Any:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        names = _PRODUCTS if convolutions else _PRODUCTS[:1]
        outs = _evaluate(traced.jaxpr, traced.consts, jax.tree.leaves(args), names)
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return computed


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], products: Sequence[str]
) -> list[Any]:
    """One operation after the other, as JAX's documentation on interpreters of jaxprs has it."""
    import jax.numpy as jnp
    from jax.extend.core import Literal

    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def value(x: Any) -> Any:
        return x.val if isinstance(x, Literal) else known[x]

    for line in jaxpr.eqns:
        given = [value(x) for x in line.invars]
        name = line.primitive.name
        if name in products and all(x.dtype == jnp.float32 for x in given):
            params = {**line.params, "preferred_element_type": jnp.dtype(jnp.float32)}
            outs = [line.primitive.bind(*(x.astype(jnp.bfloat16) for x in given), **params)]
        elif name in _INLINED:
            inner = line.params[_INLINED[name]]
            outs = _evaluate(inner.jaxpr, inner.consts, given, products)
        else:
            params = {key: _rewritten(x, products) for key, x in line.params.items()}
            bound = line.primitive.get_bind_params(params)
            # A pair until JAX 0.8: functions that come before the operands.
            functions, params = bound if isinstance(bound, tuple) else ((), bound)
            found = line.primitive.bind(*functions, *given, **params)
            outs = found if line.primitive.multiple_results else [found]
        known.update(zip(line.outvars, outs, strict=True))
    return [value(x) for x in jaxpr.outvars]


def _rewritten(param: Any, products: Sequence[str]) -> Any:
    """A parameter of an operation, the functions in it (of scan, while, cond, remat) rounded."""
    import jax
    from jax.extend.core import ClosedJaxpr, Jaxpr

    if isinstance(param, tuple):
        return tuple(_rewritten(x, products) for x in param) if _has_functions(param) else param
    if not isinstance(param, ClosedJaxpr | Jaxpr):
        return param
    closed = param if isinstance(param, ClosedJaxpr) else ClosedJaxpr(param, ())
    like = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=getattr(x, "weak_type", False))
        for x in closed.in_avals
    ]
    new = jax.make_jaxpr(lambda *args: _evaluate(closed.jaxpr, closed.consts, args, products))(
        *like
    )
    return new if isinstance(param, ClosedJaxpr) else new.jaxpr


def _has_functions(param: tuple[Any, ...]) -> bool:
    from jax.extend.core import ClosedJaxpr, Jaxpr

    return any(isinstance(x, ClosedJaxpr | Jaxpr) for x in param)
