#!/bin/sh
# Builds the guest programs, the two initramfs images and the host client into $1, for kernel version $KVER, whose
# modules are in $ROOT/lib/modules. The image with busybox is left out where there is no static busybox.
set -e
here=$(cd "$(dirname "$0")" && pwd); out=${1:?usage: build.sh DIRECTORY}; kv=${KVER:?}; root=${ROOT:-}
mkdir -p "$out"; cd "$out"
for p in ginit ipcbench true netserv; do gcc -O2 -Wall -static -s -o $p "$here/$p.c"; done
gcc -O2 -Wall -pthread -o netcli "$here/netcli.c"
mk() { # name with_busybox
	rm -rf root; mkdir -p root/m root/www root/dev root/proc root/sys
	cp ginit root/init; cp ipcbench true netserv root/
	for m in net/core/failover drivers/net/net_failover drivers/virtio/virtio drivers/virtio/virtio_ring \
		drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci drivers/net/virtio_net; do
		if [ -e "$root/lib/modules/$kv/kernel/$m.ko" ]; then cp "$root/lib/modules/$kv/kernel/$m.ko" root/m/; fi
	done
	if [ "$2" = 1 ]; then cp /bin/busybox root/busybox; head -c 1024 /dev/zero | tr '\0' x > root/www/index.html; fi
	(cd root && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -9n) > "$1"
}
if [ -x /bin/busybox ]; then mk initramfs.gz 1; fi
mk initramfs-mini.gz 0
rm -rf root
ls -l initramfs*.gz "$root/boot/vmlinuz-$kv"
