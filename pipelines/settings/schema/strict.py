"""What every part of the configuration has in common. Decides nothing of what may be said."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Its errors don't quote what was given: it may be a key in the wrong place."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
