#!/bin/sh
# Builds the image for arm64 where arm64's programs run (emulated.py):
#   build-arm64.sh IMAGES TREE
# IMAGES keeps all images; TREE becomes the final one's file system. debootstrap makes the base.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
images=$1
tree=$2
base=docker.io/library/debian:bookworm-slim
image=localhost/flowstream:arm64

mkdir -p "$images"
cat >"$images/storage.conf" <<END
[storage]
driver = "overlay"
graphroot = "$images/storage"
runroot = "$images/run"
END
# The host's certificates are mounted, so that the Dockerfile stays as users need it.
printf '[global]\ncert = /run/host-ca.pem\n' >"$images/pip.conf"
export CONTAINERS_STORAGE_CONF="$images/storage.conf" BUILDAH_ISOLATION=chroot
# The namespaces are there already.
export _CONTAINERS_USERNS_CONFIGURED=done

make_base() {
	echo "image: making $base for arm64 by debootstrap (about two minutes, once)" >&2
	rm -rf --one-file-system "$images/base"
	# No devices can be made in a user namespace: as in a container of lxc they are bound.
	container=lxc debootstrap --arch=arm64 --variant=minbase bookworm "$images/base" >&2
	if [ -e /etc/apt/sources.list.d/debian.sources ]; then
		cp /etc/apt/sources.list.d/debian.sources "$images/base/etc/apt/sources.list.d/"
		rm -f "$images/base/etc/apt/sources.list"
	fi
	tar -C "$images/base" --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
		--exclude='./var/cache/apt/archives/*' --exclude='./var/lib/apt/lists/*' \
		--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
		--exclude='./usr/share/locale/*' -cf "$images/base.tar" .
	container=$(buildah from --arch arm64 scratch)
	buildah add --quiet "$container" "$images/base.tar" /
	buildah commit --quiet --rm "$container" "$base"
	rm -rf --one-file-system "$images/base" "$images/base.tar"
}

[ -n "$(buildah images --quiet --filter "reference=$base")" ] || make_base
buildah bud --quiet --format docker --network host --pull-never --layers --arch arm64 --build-arg "BASE=$base" \
	-v /etc/ssl/certs/ca-certificates.crt:/run/host-ca.pem:ro \
	-v "$images/pip.conf:/etc/pip.conf:ro" -t "$image" "$top"
container=$(buildah from --pull-never --arch arm64 "$image")
buildah run "$container" -- flowstream run --help | head -n 1
cp -a "$(buildah mount "$container")" "$tree"
buildah rm "$container" >/dev/null
