# The same image as `make image` writes, for those who have Docker: docker build -t cairn/cairn-extension:dev .
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -o /out/usr/local/bin/cairn-extension \
      -ldflags "-s -w -X github.com/cairn-backup/cairn/internal/buildinfo.Version=${VERSION}" ./cmd/cairn-extension \
 && mkdir -p -m 1777 /out/tmp && mkdir -p /out/etc/ssl/certs \
 && echo 'nonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin' > /out/etc/passwd && echo 'nonroot:x:65532:' > /out/etc/group

FROM scratch
COPY --from=build /out/ /
ENV PATH=/usr/local/bin HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/cairn-extension"]
