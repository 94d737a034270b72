"""The fleet of flavours: every kind of server that can be had here, as containers, and one suite of scenarios on all of them."""
