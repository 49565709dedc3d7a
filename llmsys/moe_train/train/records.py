"""What a run tells of a step, as the fields of its event. Knows no process."""

from llmsys.moe_train.train.messages import StepReport

__all__ = ["step_fields"]


def step_fields(report: StepReport) -> dict[str, object]:
    """The fields of a `step` event; `skipped` is there where the step was."""
    return {
        "step": report.step,
        "loss": report.loss,
        "tokens": report.tokens,
        "workers": report.workers,
        "balance": report.balance,
        "moved_tokens": report.moved,
        "balance_loss": report.balance_loss,
        **({"skipped": True} if report.skipped else {}),
    }
