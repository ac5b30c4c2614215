from __future__ import annotations

from hrt_mm.train.reporting import metrics_line


def test_a_line_has_the_loss_the_monitored_metric_and_its_parts_first() -> None:
    directions = [f"{one}_to_{other}" for one in ("image", "text", "audio") for other in ("image", "text", "audio")]
    metrics = {f"val/{name}/{figure}": 0.5 for name in directions for figure in ("R@5", "R@1", "queries")}
    metrics |= {"val/temperature": 0.1, "val/R@1": 0.25, "val/loss": 1.5, "val/words/image_to_text/R@1": 0.5}
    line = metrics_line(metrics, "R@1")
    assert line.startswith("val/loss 1.5  val/R@1 0.25  val/temperature 0.1  val/image_to_image/R@1 0.5")
    assert line.endswith(f"(and {len(metrics) - 8} more)")
    assert "queries" not in line and "words" not in line
    assert len(line) < 250


def test_few_metrics_are_shown_whole() -> None:
    assert metrics_line({"val/loss": 0.5, "val/accuracy": 0.25}, "accuracy") == "val/loss 0.5  val/accuracy 0.25"
