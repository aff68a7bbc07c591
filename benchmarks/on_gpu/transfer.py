"""LAT: pooled region features a second, and a training step against one of Faster R-CNN."""

from __future__ import annotations

from typing import Any

from benchmarks.on_gpu import Measured, Work
from benchmarks.on_gpu.data import dataset, detector_settings, new_detector, pseudo_labels
from benchmarks.on_gpu.detectors import LARGE, SMALL, training_steps
from benchmarks.on_gpu.measure import device_of, once, peak_mib, rounded, steps_of, timed_steps
from relabel.datasets.labelspace import JointLabelSpace
from relabel.lat import train as lat_train
from relabel.lat.bank import build_bank
from relabel.lat.features import FrozenFeatures
from relabel.lat.settings import LatSettings
from relabel.settings import Runtime

AIM = 1 / 3
TINY_LAT: dict[str, Any] = {
    "image_size": 64,
    "max_image_size": 96,
    "channels": 16,
    "feature_channels": 4,
}
PER_IMAGE = 60  # pseudo-labels of each label space, the most that become proposals


def run(work: Work) -> Measured:
    scale, device = LARGE if work.large else SMALL, device_of(work)
    settings = LatSettings(**({} if work.large else TINY_LAT))
    images, per_image = (128, PER_IMAGE) if work.large else (6, 10)
    runtime = Runtime(device=device.type, quiet=True)
    datasets = {
        name: dataset(work, name, images, scale.size, scale.classes, 64)
        for name in ("target", "source")
    }
    labels = {
        (by, on): pseudo_labels(datasets[on], datasets[by].space, per_image, scale.size, seed)
        for seed, (by, on) in enumerate((a, b) for a in datasets for b in datasets)
    }
    specialist = work.folder / "specialist-lat"
    new_detector(datasets["target"].space, detector_settings(work, "faster-rcnn")).save(specialist)

    found = Measured()
    figures = found.figures
    features = FrozenFeatures.create(settings, device, specialist)
    source = datasets["source"]
    features.fit_pca([lat_train.load_rgb(source, row) for row in range(min(4, len(source)))])
    joint = JointLabelSpace(tuple(d.space for d in datasets.values()))
    on_source = {by: found for (by, on), found in labels.items() if on == "source"}

    def pool(folder: str, rows: int) -> int:
        chosen = lat_train.training_rows(source, settings)[:rows]
        place = work.folder / folder
        arguments = (source, chosen, joint, on_source, features, settings, runtime, place, {})
        return int(build_bank(*arguments).offsets[-1])

    pool("warm", 4)
    pooled = 0

    def pool_all() -> None:
        nonlocal pooled
        pooled = pool("bank", images)

    seconds = once(pool_all, device)
    figures["regions pooled"] = pooled
    figures["pooled regions/s"] = rounded(pooled / seconds)
    figures["pooling, images/s"] = rounded(images / seconds)

    figures["pooling, peak MiB"] = peak_mib(work)
    with timed_steps(lat_train, work, work.seconds / 4) as taken:
        lat_train.train_lat(
            datasets,
            labels,
            "target",
            work.folder / "lat",
            settings,
            runtime,
            specialists={"target": specialist},
        )
    step = steps_of(taken)
    batch = settings.batch_size
    figures["batch"] = batch
    figures["LAT step, ms"] = rounded(1000 * step.median)
    figures["LAT step, peak MiB"] = peak_mib(work)
    figures["LAT training, images/s"] = step.per_second(batch)
    peer_settings = detector_settings(work, "faster-rcnn", batch_size=batch)
    peer = training_steps(work, source, peer_settings, work.seconds / 4, kept=4)
    figures["Faster R-CNN step of as many images in memory, ms"] = rounded(1000 * peer.median)
    ratio = rounded(step.median / peer.median)
    figures["LAT step against Faster R-CNN's"] = ratio
    found.aim("LAT step against Faster R-CNN's", ratio, "at most 1/3", ratio <= AIM)
    return found
