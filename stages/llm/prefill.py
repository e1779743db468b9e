"""Which waiting prompts advance in a step, and by how many tokens. Pure; knows no tensors.

The first prompt is sure of half the budget: the longest-waiting one of the tenant whose turn it is, since that is the order of a
step's rows. The rest goes to whoever is nearest to its first token: short prompts overtake a long one, and no prompt starves.
"""

from collections.abc import Sequence


def share_budget(remaining: Sequence[int], budget: int) -> list[int]:
    """Tokens for each prompt (in their order) this step: at most `budget` in all, and all of it where there is that
    much."""
    shares = [0] * len(remaining)
    if not remaining:
        return shares
    shares[0] = min(remaining[0], -(-budget // 2))
    left = budget - shares[0]
    for index in sorted(range(len(remaining)), key=lambda index: (remaining[index], index)):
        extra = min(remaining[index] - shares[index], left)
        shares[index] += extra
        left -= extra
    return shares


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of chunks that share a forward pass: padding a group to its longest at most doubles it. Chunks of 0 are left
    out."""
    groups: list[list[int]] = []
    for index in sorted((index for index, length in enumerate(lengths) if length), key=lambda index: -lengths[index]):
        if groups and lengths[index] * 2 >= lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
