"""Probes of frozen features: a part that can be read off, information that is there, ratios by hand."""

from __future__ import annotations

import pytest
import torch

from tasks.recognition.zsl_probes import (
    Gathered,
    Probes,
    information_figure,
    information_report,
    minibatches,
    parts_ratio,
)

STEPS = {"part_steps": 60, "part_rate": 0.1, "mine_steps": 60, "mine_rate": 3e-3, "tree_steps": 50}


def features(count: int = 48, informative: bool = True) -> Gathered:
    """A part is where channel 0 is 1; a place with it carries, in the other channels, the picture's vector."""
    generator = torch.Generator().manual_seed(int(informative))
    parts = torch.rand(count, 2, 3, 3, generator=generator) < 0.3
    vector = torch.randn(count, 4, generator=generator)
    local = 0.1 * torch.randn(count, 6, 3, 3, generator=generator)
    local[:, :2] += parts.float()
    if informative:
        local[:, 2:] += vector[..., None, None] * parts.any(1, keepdim=True)
    label = torch.arange(count) % 3
    return Gathered(vector, label, vector, local.half(), parts)


def probes() -> Probes:
    torch.manual_seed(0)
    attributes = torch.eye(3, dtype=torch.bool).expand(2, -1, -1)
    return Probes(4, 6, 2, attributes, representation=4, units=16)


def test_parts_that_lie_open_are_read_off() -> None:
    found, gathered = probes(), features()
    found.fit(gathered, **STEPS)
    assert gathered.parts is not None
    assert gathered.local is not None
    says = found.parts(gathered.local.float()) > 0
    assert (says == gathered.parts).float().mean() > 0.97


def test_information_that_is_there_is_found_where_it_is() -> None:
    found, gathered = probes(), features()
    found.fit(gathered, **STEPS)
    assert gathered.vector is not None
    assert gathered.local is not None
    image = (torch.rand(48, 3, 16, 16) * 255).to(torch.uint8)
    semantics = torch.eye(3)[gathered.label]
    numbers = information_report(
        found, gathered.vector, gathered.local, gathered.parts, image, semantics, pairs=40
    )
    nothing = probes()
    apart = features(informative=False)
    nothing.fit(apart, **STEPS)
    none = information_report(nothing, apart.vector, apart.local, apart.parts, image, semantics, pairs=40)  # type: ignore[arg-type]
    assert numbers["mutual_information"] > none["mutual_information"] + 0.1
    maps = found.information_maps(gathered.vector, gathered.local)
    torch.testing.assert_close(maps.flatten(1).sum(1), torch.ones(48))
    assert gathered.parts is not None
    assert parts_ratio(maps, gathered.parts).mean() > numbers["parts_area"]
    assert set(numbers) == {
        "mutual_information",
        "parts_ratio",
        "parts_area",
        "parts_ratio_attributes",
        "parts_ratio_ssim",
    }
    assert -1 <= numbers["parts_ratio_ssim"] <= 1


def test_the_same_features_make_the_same_probes_whatever_came_before() -> None:
    gathered = features()
    states = []
    for seed in (1, 2):
        found = probes()
        torch.manual_seed(seed)
        found.fit(gathered, **{**STEPS, "mine_steps": 3, "part_steps": 3, "tree_steps": 3})
        states.append(found.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0]["attribute_vectors"].any()


def test_without_clicks_there_is_no_probe_for_parts() -> None:
    attributes = torch.eye(3, dtype=torch.bool)[None]
    bare = Probes(4, 6, 0, attributes, representation=4, units=8)
    gathered = features()
    without = Gathered(gathered.representation, gathered.label, gathered.vector, gathered.local, None)
    bare.fit(without, **{**STEPS, "mine_steps": 2})
    assert bare.parts is None
    assert gathered.vector is not None
    assert gathered.local is not None
    image = torch.zeros(48, 3, 16, 16, dtype=torch.uint8)
    numbers = information_report(
        bare, gathered.vector, gathered.local, None, image, torch.eye(3)[gathered.label], pairs=5
    )
    assert set(numbers) == {"mutual_information"}


def test_the_share_of_a_map_in_parts_by_hand() -> None:
    maps = torch.tensor([[[0.5, 0.2], [0.2, 0.1]]])
    parts = torch.tensor([[[[True, False], [False, False]], [[True, True], [False, False]]]])
    assert parts_ratio(maps, parts).item() == pytest.approx(0.7)


def test_minibatches_go_round() -> None:
    drawn = torch.cat(list(minibatches(10, 4, 5)))
    assert drawn.bincount().tolist() == [2] * 10
    assert all(len(batch) == 3 for batch in minibatches(3, 64, 2))


def test_a_figure_of_maps() -> None:
    gathered = features(6)
    tested = {
        "vector": gathered.vector,
        "local": gathered.local,
        "label": gathered.label,
        "image": torch.zeros(6, 3, 16, 16, dtype=torch.uint8),
    }
    picture = information_figure(probes().eval(), tested)  # type: ignore[arg-type]
    assert picture.ndim == 3
    assert picture.shape[2] == 3
