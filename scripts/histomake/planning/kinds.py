"""Files that the prediction of each kind of task leaves beside its table. Light: read whenever a run is planned."""

from histomake.base.kinds import Kind

LABEL_IMAGE: dict[Kind, bool] = {
    Kind.CLASSIFICATION: False,
    Kind.MULTI_LABEL: False,
    Kind.REGRESSION: False,
    Kind.SEGMENTATION: True,
}
"""Whether a prediction has a label image with its outlines, made by rule segment_slide; else rule predict_slide."""
