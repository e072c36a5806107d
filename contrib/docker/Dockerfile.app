# SPDX-License-Identifier: MIT
#
# The first way to use fixport in containers: the library lies in one's own image. These two lines
# at the end of any Dockerfile do it, for images with glibc and with musl. Nothing else is needed.
#
#   docker build -t app-fixport --build-arg APP=app -f contrib/docker/Dockerfile.app contrib/docker
#   docker run -v /run/fixport:/run/fixport:ro -v /run/fixport/shared:/run/fixport/shared app-fixport
#
# The volumes are the pool of the machine, whose rules containers read only, and what they share:
# make it there by "fixport-pool create". All containers
# that leave the machine by the same address must share it.

ARG APP=docker.io/library/debian:bookworm-slim
ARG FIXPORT=fixport

FROM ${FIXPORT} AS fixport
FROM ${APP}
COPY --from=fixport /usr/lib/libfixport.so /usr/local/lib/libfixport.so
ENV LD_PRELOAD=/usr/local/lib/libfixport.so
