import sys
from pathlib import Path

# The encoders of test videos beside this file are imported by the test modules as `video_fixtures`.
sys.path.insert(0, str(Path(__file__).parent))
