"""Market-1501: 32,668 crops of 1,501 persons under six cameras before a supermarket.

Format: see `person_crops.py`; names such as `0002_c1s1_000451_03.jpg`. 12,936 crops of 751 persons for training,
3,368 queries of 750 persons, a gallery of 19,732 files: 13,115 of those persons, 2,798 distractors (0000) and
3,819 junk (-1). Crops are 128 x 64 pixels.
Licence: free for research, with the citation:
L. Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.

The miniature: summer clothes under four cameras with vivid grounds (see `PersonCrops.render`).
"""

from __future__ import annotations

from datamodules.retrieval.person_crops import PersonCrops


class Market1501(PersonCrops):
    """Samples: `image` float32 [3, H, W] in [0, 1], `label`, `camera`, `is_query`, `id`; see the task."""

    name = "market-1501"
    title = "Market-1501"
    url = "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html"
    licence = "research use with citation"
    published_folder = "Market-1501-v15.09.15"
    style = "summer"

    @classmethod
    def file_name(cls, person: int, camera: int, frame: int) -> str:
        return f"{person if person < 0 else f'{person:04d}'}_c{camera}s1_{frame:06d}_01.jpg"
