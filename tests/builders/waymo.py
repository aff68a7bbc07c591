"""Tiny Waymo Open files: TFRecord and protobuf encoded by hand, and Parquet."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from tests.builders.datasets import jpeg

# Waymo v1 -------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def fixed64(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def chunk(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def waymo_label(
    cx: float, cy: float, x_extent: float, y_extent: float, kind: int, *, level: int = 1
) -> bytes:
    """A Label; its Box holds the y extent as width (4) and the x extent as length (5)."""
    box = fixed64(1, cx) + fixed64(2, cy) + fixed64(5, x_extent) + fixed64(4, y_extent)
    return chunk(1, box) + number(3, kind) + chunk(4, b"object-id") + number(5, level)


def waymo_frame(
    context: str,
    timestamp: int,
    images: list[tuple[int, bytes]],
    labels: list[tuple[int, list[bytes]]],
) -> bytes:
    laser = chunk(3, number(1, 1) + chunk(2, b"\xff" * 300))  # a field to step over
    return (
        chunk(1, chunk(1, context.encode()) + chunk(3, b"\x0a\x02ab"))
        + number(2, timestamp)
        + laser
        + b"".join(chunk(4, number(1, c) + chunk(2, data)) for c, data in images)
        + varint(7 << 3 | 5)
        + b"\0\0\0\0"
        + b"".join(
            chunk(8, number(1, c) + b"".join(chunk(2, label) for label in found))
            for c, found in labels
        )
    )


def bitwise_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            high = (crc ^ (byte >> bit)) & 1
            crc = (crc >> 1) ^ (0x82F63B78 * high)
    return crc ^ 0xFFFFFFFF


def tfrecord(payloads: list[bytes]) -> bytes:
    def masked(data: bytes) -> bytes:
        crc = bitwise_crc32c(data)
        rotated = ((crc >> 15) | (crc << 17)) & 0xFFFFFFFF
        return struct.pack("<I", (rotated + 0xA282EAD8) % (1 << 32))

    out = b""
    for payload in payloads:
        length = struct.pack("<Q", len(payload))
        out += length + masked(length) + payload + masked(payload)
    return out


WAYMO_CONTEXT = "1005081002024129653_5313_150_5333_150"


def waymo_v1_frames() -> list[bytes]:
    """Two frames: a front camera with four labels, a side camera with none; then one more box."""
    front = [
        waymo_label(100, 60, 80, 20, 1),
        waymo_label(10, 50, 40, 30, 4, level=2),  # x from -10: clipped
        waymo_label(30, 30, 10, 10, 3),  # a sign
        waymo_label(50, 100, 7, 9, 2),
    ]
    return [
        waymo_frame(
            WAYMO_CONTEXT, 1000, [(1, jpeg(192, 128)), (4, jpeg(192, 88))], [(1, front), (4, [])]
        ),
        waymo_frame(
            WAYMO_CONTEXT, 2000, [(5, jpeg(192, 88, 10))], [(5, [waymo_label(20, 40, 8, 6, 1)])]
        ),
    ]


def waymo_v1(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"segment-{WAYMO_CONTEXT}_with_camera_labels.tfrecord"
    file.write_bytes(tfrecord(waymo_v1_frames()))
    return file


# Waymo v2 -------------------------------------------------------------------------------------

BOX = "[CameraBoxComponent]"


def waymo_v2(
    root: Path,
    *,
    split: str = "training",
    image_cameras: list[Any] | None = None,
    box_cameras: list[Any] | None = None,
    boxes: list[tuple[int, int, float, float, float, float, int]] | None = None,
) -> Path:
    """Two images, front and side left, of one frame, in row groups of one row.

    ``boxes`` rows are (timestamp, camera position in ``box_cameras``, cx, cy, w, h, type).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    image_cameras = image_cameras or [1, 4]
    box_cameras = box_cameras or [1, 4]
    boxes = boxes or [
        (1000, 0, 100.0, 60.0, 80.0, 20.0, 1),
        (1000, 0, 10.0, 50.0, 40.0, 30.0, 4),
        (1000, 0, 30.0, 30.0, 10.0, 10.0, 3),
    ]

    def cameras(values: list[Any]) -> Any:
        return pa.array(values, pa.string() if isinstance(values[0], str) else pa.int8())

    def write(kind: str, columns: dict[str, Any]) -> None:
        file = root / split / kind / f"{WAYMO_CONTEXT}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file, row_group_size=1)

    def keys(times: list[int], values: list[Any]) -> dict[str, Any]:
        return {
            "key.segment_context_name": pa.array([WAYMO_CONTEXT] * len(times)),
            "key.frame_timestamp_micros": pa.array(times, pa.int64()),
            "key.camera_name": cameras(values),
        }

    images = [jpeg(192, 128), jpeg(192, 88)]
    write(
        "camera_image",
        keys([1000, 1000], image_cameras) | {"[CameraImageComponent].image": pa.array(images)},
    )
    places = ("center.x", "center.y", "size.x", "size.y")
    columns = {
        f"{BOX}.box.{p}": pa.array([b[i + 2] for b in boxes], pa.float64())
        for i, p in enumerate(places)
    }
    write(
        "camera_box",
        keys([b[0] for b in boxes], [box_cameras[b[1]] for b in boxes])
        | {"key.camera_object_id": pa.array([f"id{i}" for i in range(len(boxes))])}
        | columns
        | {
            f"{BOX}.type": pa.array([b[6] for b in boxes], pa.int8()),
            f"{BOX}.difficulty_level.detection": pa.array([1] * len(boxes), pa.int8()),
        },
    )
    return root
