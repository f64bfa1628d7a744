"""The matrix products of one rank in one micro-batch of a plan, from the table of a layer's operations."""

from __future__ import annotations

from dataclasses import replace

from meshwright.cost.inputs import Scene, scene
from meshwright.layout.plan import Plan
from meshwright.model.operations import Operation
from meshwright.model.work import is_matrix
from meshwright.resolver import layout
from meshwright.spec.frozen import dataclass

__all__ = ["Attention", "Product", "attention", "products", "small"]

SMALL = 384  # the longest side of what a CPU multiplies
SMALL_EXPERTS = 4


@dataclass(frozen=True)
class Product:
    """``count`` products of ``[m, k]`` and ``[k, n]``, as one grouped product where there are several."""

    name: str
    m: int
    n: int
    k: int
    count: int = 1

    @property
    def flops(self) -> float:
        """Of all."""
        return 2.0 * self.count * self.m * self.n * self.k

    def moved(self, width: int) -> float:
        """Bytes read and written, ``width`` an element."""
        return float(width * self.count * (self.m * self.n + self.n * self.k + self.m * self.k))


@dataclass(frozen=True)
class Attention:
    """Causal attention of ``batch`` sequences over ``heads`` heads of one rank."""

    batch: int
    sequence: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def flops(self) -> float:
        """Of the half that is seen: query-key, probability-value."""
        return 2.0 * self.batch * self.heads * self.sequence**2 * self.head_dim


def products(plan: Plan) -> tuple[Product, ...]:
    """Of a dense layer, of a layer with experts where the model has them, and of the head; each shape once."""
    s = scene(layout(plan.spec))
    found = [_product(s, o) for layer in s.layers for o in layer if _multiplies(o)]
    model, tp = plan.spec.model, plan.grid.tp
    found.append(Product("head", int(s.tokens), plan.padded_vocab // tp, model.hidden))
    by_shape = {(p.m, p.n, p.k, p.count): p for p in reversed(found)}
    return tuple(reversed(by_shape.values()))


def _multiplies(o: Operation) -> bool:
    """Whether it is a product of its own worth; the router's and the shared gate's are tiny."""
    return any(is_matrix(w.name) for w in o.weights) and not o.name.startswith(("router", "shared_experts.gate"))


def _product(s: Scene, o: Operation) -> Product:
    (weight,) = (w for w in o.weights if is_matrix(w.name))
    if weight.shard == "expert":
        return _grouped(s, o, weight.elements)
    inputs, outputs = (int(tensor.on_rank(s.degrees) / 2) for tensor in o.moved)
    return Product(o.name, int(s.tokens), outputs, inputs)


def _grouped(s: Scene, o: Operation, elements: int) -> Product:
    """Of the experts of one rank, to which all tokens of its ep group are routed evenly."""
    moe, hidden = s.layout.model.moe, s.layout.model.hidden
    assert moe is not None
    other = elements // hidden // s.layout.etp
    tokens = max(1, int(s.tokens * moe.topk * s.layout.ep / moe.experts))
    n, k = (other, hidden) if o.name.endswith("up") else (hidden, other)
    return Product(o.name, tokens, n, k, moe.experts // s.layout.ep)


def attention(plan: Plan) -> Attention:
    """Of one rank; latent attention counts as attention with its query's width."""
    model, grid, training = plan.spec.model, plan.grid, plan.spec.training
    width = model.mla.qk_nope_dim + model.mla.qk_rope_dim if model.mla else model.head_dim
    heads, kv = model.heads // grid.tp, max(1, (model.heads if model.mla else model.kv_heads) // grid.tp)
    return Attention(plan.batch.micro_batch, training.sequence // grid.cp, heads, kv, width)


def _small(p: Product) -> Product:
    """Its sides in proportion, but for the tokens."""
    shrink = max(1.0, max(p.n, p.k) / SMALL)
    n, k = (max(16, int(side / shrink)) for side in (p.n, p.k))
    return replace(p, m=min(p.m, SMALL), n=n, k=k, count=min(p.count, SMALL_EXPERTS))


def small(shapes: tuple[Product, ...], one: Attention) -> tuple[tuple[Product, ...], Attention]:
    """The same, cut down to what a CPU does in a moment."""
    cut = tuple(map(_small, shapes))
    kv = min(one.kv_heads, 2)
    less = replace(one, batch=1, sequence=min(one.sequence, SMALL), heads=2 * kv, kv_heads=kv)
    return tuple({(p.m, p.n, p.k, p.count): p for p in cut}.values()), replace(less, head_dim=min(64, one.head_dim))
