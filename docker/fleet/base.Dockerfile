# What every flavour stands on: a suite's packages by debootstrap, with a login that has a password and no key.
ARG BASE
FROM $BASE
RUN useradd --create-home --shell /bin/bash bob
