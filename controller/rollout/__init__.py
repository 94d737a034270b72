"""Which server of a rollout comes next, and when it is over. Pure: no clock, no store, no network.

amounts    "5" or "2 %" of something
window     the hours in which servers may be begun
strategy   all that was asked of how a rollout goes
waves      who is in the canary, and who in which batch
budget     how many may fail before nothing more is begun
breaker    a way there that fails again and again is left alone for a while
progress   all of it together: what may begin now
"""
