"""What networks are for, and what their answer for one picture means.

embedding        [dimension], a vector of length 1
classification   [classes], the probability of each
detection        [max_detections, 6]: x_min, y_min, x_max, y_max in fractions of the picture, score 0..1, and the
label's number; by falling score; rows of zeros where nothing more was found
"""

from __future__ import annotations

from typing import Literal

Task = Literal["embedding", "classification", "detection"]

TASKS: tuple[Task, ...] = ("embedding", "classification", "detection")
