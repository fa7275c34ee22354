#!/bin/sh
# Builds the Linux guest's initial file system into FOLDER/initramfs.gz: the first process, and the network card's
# driver of the kernel VERSION, which is unpacked in ROOT.
set -e
usage="usage: build.sh FOLDER ROOT VERSION"
folder=${1:?$usage} root=${2:?$usage} version=${3:?$usage}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
tree=$(mktemp -d "$folder/tree.XXXXXX")
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/dev" "$tree/proc" "$tree/modules"
gcc -O2 -Wall -Wextra -Werror -static -s -o "$tree/init" "$here/init.c" "$here/serve.c"
for module in net/core/failover drivers/net/net_failover drivers/net/virtio_net \
	drivers/virtio/virtio drivers/virtio/virtio_ring drivers/virtio/virtio_pci \
	drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci_legacy_dev; do
	file="$root/lib/modules/$version/kernel/$module.ko"
	# What is not there is built into the kernel.
	if [ -e "$file" ]; then cp "$file" "$tree/modules/"; fi
done
(cd "$tree" && find . | LC_ALL=C sort | cpio --create --format=newc --quiet | gzip --best --no-name) > "$tree.gz"
mv "$tree.gz" "$folder/initramfs.gz"
