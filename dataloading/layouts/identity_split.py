"""Identity-disjoint train, validation and test splits, for data sets (or parts of them) that come without one."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

# The shares of FaceForensics++: 720, 140 and 140 of 1000 originals.
THREE_WAY = {"train": 0.72, "val": 0.14, "test": 0.14}
VALIDATION_FROM_TRAINING = {"train": 0.9, "val": 0.1}

IN_TWO_SPLITS = "shows people of two different splits"


def split_by_identity(
    people: Sequence[Sequence[str]], labels: Sequence[int], shares: Mapping[str, float]
) -> list[tuple[str, str | None]]:
    """Put every video in a split, such that none of `people` is in two; the same on every machine.

    People that appear in a video together belong to one group, and so do those linked over several videos. Where that
    ties more than half of a set of more than ten people into one group (as in Celeb-DF, where nearly all people are
    swapped with each other), this group is taken apart into its people, and its videos that show people of two
    different splits belong to none.

    Groups are drawn in the order of a hash of their names, separately for groups with real, fake and both kinds of
    videos, so that every split has its share of each. Where there are as many groups as splits, every split has one.

    Args:
        people: The people of each video; the first is the one whose body and scene are shown.
        labels: 0 or 1 for each video.
        shares: Share of the groups for each split; the first split gets what remains.

    Returns:
        For each video its group and its split; the split is None where its people are in two.
    """
    group_of = _groups(people)
    kinds: dict[str, set[int]] = defaultdict(set)
    for persons, label in zip(people, labels, strict=True):
        kinds[group_of[persons[0]]].add(label)
    split_of: dict[str, str] = {}
    for kind in ({0}, {1}, {0, 1}):
        split_of |= _draw([group for group, its_labels in kinds.items() if its_labels == kind], shares)
    # In a group that was taken apart, a person that is never the first of a video has no videos of its own.
    split_of |= _draw([group for group in set(group_of.values()) if group not in kinds], shares)

    result: list[tuple[str, str | None]] = []
    for persons in people:
        splits = {split_of[group_of[person]] for person in persons}
        result.append((group_of[persons[0]], splits.pop() if len(splits) == 1 else None))
    return result


def _groups(people: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the group of every person, named by the first of its people in alphabetical order."""
    parent: dict[str, str] = {}

    def find(person: str) -> str:
        parent.setdefault(person, person)
        while parent[person] != person:
            parent[person] = parent[parent[person]]
            person = parent[person]
        return person

    for persons in people:
        first = find(persons[0])
        for other in persons[1:]:
            second = find(other)
            first, second = min(first, second), max(first, second)
            parent[second] = first
    group_of = {person: find(person) for person in parent}
    videos = Counter(group_of[persons[0]] for persons in people)
    members = Counter(group_of.values())
    for group, count in videos.items():
        if count > len(people) / 2 and members[group] > 10:
            group_of |= {person: person for person, its_group in group_of.items() if its_group == group}
    return group_of


def _draw(groups: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    order = sorted(groups, key=lambda group: (hashlib.sha256(group.encode()).digest(), group))
    first, *others = shares
    split_of: dict[str, str] = {}
    # Last split first: of two groups one is for training and one for the test, not for validation.
    for split in reversed(others):
        available = len(order) - len(split_of) - 1
        count = min(max(round(shares[split] * len(order)), 1), max(available, 0))
        taken = len(split_of)
        split_of |= dict.fromkeys(order[taken : taken + count], split)
    return split_of | dict.fromkeys(order[len(split_of) :], first)
