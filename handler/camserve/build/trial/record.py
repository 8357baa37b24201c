"""What the self-test of an archive asks for, recorded when it is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from camserve.serving.load import load_pipeline
from camserve.serving.pipeline import Pipeline
from camserve.serving.selftest import SampleAnswer, record_answers, usual_options, write_answers


def record_selftest(folder: Path, pipeline: Pipeline) -> dict[str, SampleAnswer]:
    """Return a pipeline's answers to the samples of its unpacked archive, and write them there.

    Those of mode eager stand beside them where it runs in OpenVINO. ConfigError: a sample gets no answer.
    """
    options, settings, eager = usual_options(pipeline.settings), pipeline.settings, None
    answers = record_answers(pipeline, folder, options)
    if settings.runtime.mode != "eager":
        slower = replace(settings, runtime=settings.runtime.eager)
        name, version = pipeline.model.name, pipeline.model.version
        eager = record_answers(load_pipeline(folder, slower, name, version, torch.device("cpu")), folder, options)
    write_answers(answers, options, folder, eager)
    return answers
