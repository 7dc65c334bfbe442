"""Category structure: Eqs. 6-9 by hand and against loops over samples and categories, and the corners of the norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.recognition.category_structure import (
    Grouping,
    category_centres,
    category_offsets,
    category_similarity,
    compactness,
    edge_counts,
    inter_distance,
    intra_distance,
    intra_of_the_right,
)

LABEL = torch.tensor([7, 2, 7, 5, 2, 7])


def random_maps(seed: int, channels: int = 4) -> Tensor:
    return torch.rand(6, channels, 2, 2, generator=torch.Generator().manual_seed(seed))


def members(label: Tensor) -> dict[int, list[int]]:
    return {c: [i for i, own in enumerate(label.tolist()) if own == c] for c in sorted(set(label.tolist()))}


def test_centres_and_offsets_against_a_loop() -> None:
    maps, grouping = random_maps(0), Grouping.of(LABEL)
    assert grouping.categories == 3  # of those in the batch, not of eight
    centres, offsets = category_centres(maps, grouping), category_offsets(maps, grouping)
    assert centres.shape == (3, 16)
    for row, indices in enumerate(members(LABEL).values()):
        mean = sum(maps[i].flatten() for i in indices) / len(indices)
        torch.testing.assert_close(centres[row], mean)
        for i in indices:
            torch.testing.assert_close(offsets[i], maps[i].flatten() - mean)
    assert not offsets[3].any()  # alone in its category


def test_similarity_by_hand() -> None:
    found = category_similarity(torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 3.0]]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(found, torch.tensor([[1, 0, half], [0, 1, half], [half, half, 1]]))


def test_absent_categories_count_nowhere() -> None:
    maps = random_maps(1)
    few, many = Grouping.of(torch.tensor([0, 1, 0, 2, 1, 0])), Grouping.of(LABEL * 12)
    one, two = (category_similarity(category_centres(maps, g)) for g in (few, many))
    assert one.shape == two.shape == (3, 3)
    assert one.isfinite().all()


def test_intra_by_hand() -> None:
    """Two categories: offsets -1, 1 against -3, 3, and 0, 0 against -2, 2: norms sqrt(8) each."""
    grouping = Grouping.of(torch.tensor([0, 0, 1, 1]))
    teacher = category_offsets(torch.tensor([[1.0], [3.0], [5.0], [5.0]]), grouping)
    student = category_offsets(torch.tensor([[0.0], [6.0], [1.0], [5.0]]), grouping)
    assert float(intra_distance(teacher, student, grouping)) == pytest.approx(math.sqrt(8))
    assert float(intra_distance(teacher, student, grouping, "mse")) == pytest.approx(4.0)


def test_intra_is_one_norm_a_category_over_all_its_samples() -> None:
    teacher, student, grouping = random_maps(2), random_maps(3), Grouping.of(LABEL)
    expected = 0.0
    for indices in members(LABEL).values():
        psi = [
            torch.stack([maps[i] - maps[indices].mean(0) for i in indices]).flatten()
            for maps in (teacher, student)
        ]
        expected += float((psi[0] - psi[1]).norm()) / 3
    found = intra_distance(category_offsets(teacher, grouping), category_offsets(student, grouping), grouping)
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_structure_is_matched_not_made_compact() -> None:
    """A student whose samples lie as far from their centre as the teacher's has no loss; a collapsed one has."""
    teacher, grouping = random_maps(4), Grouping.of(LABEL)
    moved = teacher + torch.arange(9.0)[LABEL][:, None, None, None]  # each category as a whole
    wanted = category_offsets(teacher, grouping)
    assert float(intra_distance(wanted, category_offsets(moved, grouping), grouping)) < 1e-5
    collapsed = category_centres(teacher, grouping)[grouping.member]
    assert float(intra_distance(wanted, category_offsets(collapsed, grouping), grouping)) > 0.1


def test_inter_is_a_frobenius_norm() -> None:
    teacher, student = torch.eye(2), torch.tensor([[1.0, 0.3], [0.3, 1.0]])
    assert float(inter_distance(teacher, student)) == pytest.approx(0.3 * math.sqrt(2))
    assert float(inter_distance(teacher, student, "mse")) == pytest.approx(0.045)


def test_gradients_are_finite_where_norms_are_zero() -> None:
    """Singletons alone, and a student that is its teacher."""
    for label in (torch.arange(6), LABEL):
        grouping = Grouping.of(label)
        teacher = random_maps(5)
        student = teacher.clone().requires_grad_()
        offsets = [category_offsets(maps, grouping) for maps in (teacher, student)]
        matrices = [category_similarity(category_centres(maps, grouping)) for maps in (teacher, student)]
        (intra_distance(*offsets, grouping) + inter_distance(*matrices)).backward()
        assert student.grad.isfinite().all()


def test_gradients_flow_through_centres_unless_detached() -> None:
    grouping = Grouping.of(torch.tensor([0, 0]))
    gradients = []
    for detached in (False, True):
        student = torch.tensor([[0.0], [4.0]], requires_grad=True)
        category_offsets(student, grouping, detach_centres=detached)[0].sum().backward()
        gradients.append(student.grad.flatten().tolist())
    assert gradients == [[0.5, -0.5], [1.0, 0.0]]


def test_the_order_of_samples_does_not_matter() -> None:
    teacher, student = random_maps(6), random_maps(7)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = []
    for index in (torch.arange(6), order):
        grouping = Grouping.of(LABEL[index])
        offsets = [category_offsets(maps[index], grouping) for maps in (teacher, student)]
        matrices = [category_similarity(category_centres(m[index], grouping)) for m in (teacher, student)]
        found.append((float(intra_distance(*offsets, grouping)), float(inter_distance(*matrices))))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_centres_of_the_right_against_a_loop() -> None:
    teacher, student, grouping = random_maps(8), random_maps(9), Grouping.of(LABEL)
    # Category 2 is samples 1 and 4, 5 is 3, 7 is 0, 2, 5.
    right = [
        torch.tensor([1, 1, 1, 1, 1, 0]).bool(),
        torch.tensor([1, 0, 1, 1, 0, 1]).bool(),  # none of category 2
    ]
    centre = {
        (net, c): maps[[i for i in indices if right[net][i]]].mean(0)
        for net, maps in enumerate((teacher, student))
        for c, indices in members(LABEL).items()
        if c != 2
    }
    errors = [
        ((teacher[i] - centre[0, c]) - (student[i] - centre[1, c])).square().mean()
        for c, indices in members(LABEL).items()
        if c != 2
        for i in indices
    ]
    found = intra_of_the_right(teacher, student, grouping, *right, detach_centres=True)
    torch.testing.assert_close(found, torch.stack(errors).mean())
    nothing = intra_of_the_right(
        teacher, student, grouping, right[0], ~torch.ones(6).bool(), detach_centres=True
    )
    assert float(nothing) == 0.0


def test_compactness_by_hand() -> None:
    logits = torch.tensor([[0.0], [4.0], [1.0]], requires_grad=True)
    loss = compactness(logits, Grouping.of(torch.tensor([0, 0, 1])))
    loss.backward()
    assert float(loss) == pytest.approx(8 / 3)
    assert logits.grad.flatten().tolist() == pytest.approx([-4 / 3, 4 / 3, 0.0])


@pytest.mark.parametrize(("m", "c"), [(1, 100), (3, 20), (12, 10), (500, 200)])
def test_edges_and_the_bound_of_eq_11(m: int, c: int) -> None:
    structure, correlation = edge_counts(m * c, c)
    assert (structure, correlation) == (m * c + c * c, (m * c) ** 2)
    assert correlation / structure <= m / 2 * math.sqrt(m * c) + 1e-9


def test_half_precision_is_computed_in_single() -> None:
    maps, grouping = random_maps(0), Grouping.of(LABEL)
    with torch.autocast("cpu", torch.bfloat16):
        matrix = category_similarity(category_centres(maps.bfloat16(), grouping))
    assert matrix.dtype == torch.float32
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3))
