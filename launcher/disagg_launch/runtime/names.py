"""Names of environment variables that more than one part of the runtime half reads or sets."""

GATEWAY = "DISAGG_GATEWAY"
"""host:port of the gateway; not set when a step was typed by hand."""
RUN = "DISAGG_RUN"
"""The run folder."""
LIFE = "DISAGG_LIFE"
"""Every process that a gateway starts, on whatever node, carries this, and children inherit it. It is a new random text for each gateway,
so that a variable which a user exported in a shell can never mark that shell."""
START = "DISAGG_START"
"""Which start of its instance a rank belongs to: 1, and one more after each restart."""
