"""Option sets of `zsl_local_comp`: its sizes for short runs, and each objective with each local loss and encoder."""

from __future__ import annotations

from typing import Any

PROFILES: dict[str, dict[str, Any]] = {
    # In a few hundred steps `dv` hardly leaves zero, whatever the positives are. Of the other bounds the one that is
    # better for DIM and CMDIM alike on held-out seen classes (`data.validation`); it is the default of DIM's code.
    "mini": {
        "estimator": "jsd",
        "width": 0.25,
        "first_stride": 1,
        "units": 128,
        "amdim_units": 128,
        "learning_rate": 1e-3,
        "batch_size": 16,
        "max_steps": 240,
        "max_epochs": None,
        "head_steps": 200,
        "head_rate": 1e-3,
        "head_space": 256,
        "part_steps": 80,
        "part_rate": 1e-2,
        "mine_steps": 30,
        "mine_rate": 1e-3,
        "mine_units": 64,
        "pairs": 200,
        "click_side": 5.0,
    },
    "smoke": {
        "width": 0.0625,
        "first_stride": 1,
        "units": 16,
        "amdim_units": 16,
        "batch_size": 16,
        "max_steps": 2,
        "max_epochs": None,
        "head_steps": 5,
        "head_space": 16,
        "probe_images": 64,
        "part_steps": 3,
        "mine_steps": 3,
        "mine_units": 16,
        "tree_steps": 10,
        "pairs": 20,
        "click_side": 5.0,
    },
}

ALONE: dict[str, Any] = {"data.pairs": "none"}
VIEWS: dict[str, Any] = {"data.pairs": "view"}


def _presets() -> dict[str, dict[str, Any]]:
    """Each objective, with each local loss and with each encoder; `cmdim` is the method itself."""
    kinds: dict[str, dict[str, Any]] = {
        **{name: {"objective": name, **ALONE} for name in ("fc", "vae", "beta_vae", "aae", "dim", "pn")},
        "amdim": {"objective": "amdim", **VIEWS},
        "cmdim": {},
        "cmdim_p50": {"p": 0.5},
        "cmdim_p10": {"p": 0.1},
    }
    found = {name: options for name, options in kinds.items() if options}
    for name, options in kinds.items():
        for loss in ("ac", "lc"):
            if name != "pn":
                found[f"{name}_{loss}"] = {**options, "local_loss": loss}
        found[f"{name}_alex"] = {**options, "encoder": "alex"}
    for loss in ("ac", "lc"):
        for name in ("fc", "vae", "beta_vae", "aae", "dim", "amdim", "cmdim"):
            found[f"{name}_{loss}_alex"] = {**kinds[name], "local_loss": loss, "encoder": "alex"}
    for name in ("fc", "cmdim"):
        for combine in ("repr", "pred"):
            for pool, label in ((True, "pooled"), (False, "unpooled")):
                found[f"{name}_{combine}_{label}"] = {
                    **kinds[name],
                    "encoder": "alex",
                    "combine": combine,
                    "pool": pool,
                }
    found["two_view_dim"] = {"p": 0.0, "negatives": "other_image", **VIEWS}
    found["all_negatives"] = {"negatives": "other_image"}
    found |= {f"cmdim_{bound}": {"estimator": bound} for bound in ("jsd", "nce")}
    found |= {f"dim_{bound}": {**kinds["dim"], "estimator": bound} for bound in ("jsd", "nce")}
    return found


PRESETS = _presets()
