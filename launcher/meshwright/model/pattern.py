"""``model.pattern``: which kind each layer is, written in symbols.

``M*-E`` without spaces is Megatron's own form: each symbol is a layer of one part. With spaces or repeats each word is
a layer of a mixer, a feed-forward part, or both: ``12x(3xGE *E)`` is twelve times three layers of a gated delta net
with experts and one of attention with experts. Behind ``/`` stands what one layer of multi-token prediction is made of
where it is not as the last layer, once for all of them: ``MEM*E/*E``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby

from meshwright.model.layers import FEED_FORWARDS, MIXERS, LayerKind

__all__ = ["MOST", "read_ahead", "read_pattern", "symbols", "write_pattern"]

MOST = 100_000
"""Layers that a pattern may have: each is written out."""

_TOKEN = re.compile(r"\s*(?:(\d+)x|(\()|(\))|([^\s()\d]+))")


def symbols() -> dict[str, LayerKind]:
    """What each symbol says: a layer of that part alone."""
    mixers = {part.symbol: LayerKind(mixer=name) for name, part in MIXERS.items()}
    return mixers | {part.symbol: LayerKind(ffn=name) for name, part in FEED_FORWARDS.items()}


@lru_cache(maxsize=64)
def read_pattern(text: str) -> tuple[LayerKind, ...]:
    """The kind of every decoder layer. ValueError says what is wrong."""
    main, _, ahead = text.partition("/")
    if "/" in ahead:
        raise ValueError("a second / says again what a layer of multi-token prediction is made of")
    return _read(main, text)


@lru_cache(maxsize=64)
def read_ahead(text: str) -> tuple[LayerKind, ...]:
    """The kinds that one layer of multi-token prediction is made of, where they are written. ValueError as above."""
    _, slash, ahead = text.partition("/")
    if slash and not ahead.strip():
        raise ValueError("nothing follows /")
    return _read(ahead, text) if slash else ()


def _read(part: str, whole: str) -> tuple[LayerKind, ...]:
    """In the form of the ``whole``: Megatron's own, or words."""
    if not re.search(r"[\s()\d]", whole.strip()):
        return tuple(_layer(symbol) for symbol in part.strip())
    layers, rest = _sequence(_tokens(part), closing=False)
    assert not rest
    return layers


def write_pattern(layers: Iterable[LayerKind], ahead: Iterable[LayerKind] = ()) -> str:
    """As short as repeats make it; ``read_pattern`` and ``read_ahead`` give it back.

    Layers of one part are in Megatron's own form.
    """
    words, further = ([_word(kind) for kind in part] for part in (layers, ahead))
    plain = all(len(word) == 1 for word in (*words, *further))
    main, behind = ("".join(words), "".join(further)) if plain else (_repeated(words), " ".join(further))
    return f"{main}/{behind}" if further else main


def _word(kind: LayerKind) -> str:
    mixer, ffn = MIXERS.get(kind.mixer), FEED_FORWARDS.get(kind.ffn)
    return "".join(part.symbol for part in (mixer, ffn) if part is not None)


def _repeated(words: list[str]) -> str:
    """The shortest run of words that repeats all along, and in it runs of equal words."""
    count = len(words)
    period = next(n for n in range(1, count + 1) if count % n == 0 and words == words[:n] * (count // n))
    runs = [(word, len(list(group))) for word, group in groupby(words[:period])]
    unit = " ".join(word if times == 1 else f"{times}x{word}" for word, times in runs)
    if period == count:
        return unit if count > 1 else f"1x{unit}"
    return f"{count // period}x({unit})" if period > 1 else f"{count}x{unit}"


def _tokens(text: str) -> list[re.Match[str]]:
    found, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"{text[place:].strip()!r} is no layer, repeat or group")
        found.append(match)
        place = match.end()
    return found


def _sequence(tokens: list[re.Match[str]], closing: bool) -> tuple[tuple[LayerKind, ...], list[re.Match[str]]]:
    """Layers up to the end or the closing parenthesis, and the tokens behind it."""
    layers: tuple[LayerKind, ...] = ()
    while tokens and not tokens[0][3]:
        more, tokens = _item(tokens)
        layers += more
    if bool(tokens) != closing:
        raise ValueError("a parenthesis is open" if closing else "a parenthesis is closed that was not opened")
    return layers, tokens[1:]


def _item(tokens: list[re.Match[str]]) -> tuple[tuple[LayerKind, ...], list[re.Match[str]]]:
    """A layer, a group, or a repeat of either."""
    times, group, _, word = tokens[0].groups()
    if word:
        return (_layer(word),), tokens[1:]
    if group:
        return _sequence(tokens[1:], closing=True)
    if len(tokens) < 2 or tokens[1][3]:
        raise ValueError(f"nothing follows {times}x")
    layers, rest = _item(tokens[1:])
    if int(times) * len(layers) > MOST:
        raise ValueError(f"{times} times {len(layers)} are more than {MOST:,} layers")
    return layers * int(times), rest


def _layer(word: str) -> LayerKind:
    known = symbols()
    parts = [known.get(symbol) for symbol in word]
    if len(word) == 1 and parts[0]:
        return parts[0]
    if len(word) == 2 and parts[0] and parts[1] and parts[0].mixer in MIXERS and parts[1].ffn in FEED_FORWARDS:
        return LayerKind(parts[0].mixer, parts[1].ffn)
    raise ValueError(f"{word!r} is no layer: write a mixer, a feed-forward part or both of {' '.join(known)}")
