from pathlib import Path

import av
import pytest
from video_fixtures import numbered_frame, write_video


@pytest.fixture
def trimmed_video(tmp_path: Path) -> Path:
    """Frames 15 to 49 of a numbered video, cut without encoding: an edit list hides the three from its keyframe on."""
    pictures = [numbered_frame(number, 128, 96) for number in range(50)]
    whole = write_video(tmp_path / "untrimmed.mp4", pictures, "libx264", {"g": "12", "bf": "2"})
    path = tmp_path / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        frame = packets[-1].duration
        keyframe = next(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts == 12 * frame)
        for packet in packets[keyframe:]:
            packet.pts -= 15 * frame
            packet.dts -= 15 * frame
            packet.stream = stream
            target.mux(packet)
    return path
