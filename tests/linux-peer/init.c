// The first process of the Linux guest: says that it runs, loads the network card's driver, gives the card the
// address that the kernel's command line names, and serves (serve.c).
//
//   peer.address=A.B.C.D   the card's address, in a network of 24 bits
//   peer.gateway=A.B.C.D   who is told of it first
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "serve.h"

// What the guest's only card is called.
#define CARD "eth0"

// The card's driver and what it needs, in the order in which they can be loaded. A kernel that has one of them
// built in comes without its file.
static const char *const modules[] = {
	"failover", "net_failover", "virtio_ring", "virtio",
	"virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_net",
};

// Says why this cannot go on, and stays: a first process that ends is a panic.
static void give_up(const char *what)
{
	printf("peer: FAIL %s: %s\n", what, strerror(errno));
	for (;;)
		pause();
}

static void load_modules(void)
{
	for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
		char path[64];
		snprintf(path, sizeof path, "/modules/%s.ko", modules[i]);
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file < 0)
			continue;
		if (syscall(SYS_finit_module, file, "", 0))
			give_up(path);
		close(file);
	}
}

// Reads an address of the command line, which is words of the form NAME=VALUE.
static struct in_addr address(const char *name)
{
	static char line[4096];
	if (!line[0]) {
		int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
		if (file < 0 || read(file, line, sizeof line - 1) < 0)
			give_up("/proc/cmdline");
		close(file);
	}
	char copy[sizeof line];
	strcpy(copy, line);
	size_t length = strlen(name);
	for (char *word = strtok(copy, " \n"); word; word = strtok(NULL, " \n")) {
		struct in_addr found;
		if (!strncmp(word, name, length) && word[length] == '=' && inet_aton(word + length + 1, &found))
			return found;
	}
	errno = EINVAL;
	give_up(name);
	return (struct in_addr){0};
}

static void set_address(int socket, unsigned long request, struct in_addr value)
{
	struct ifreq card = {.ifr_name = CARD};
	struct sockaddr_in *place = (struct sockaddr_in *)&card.ifr_addr;
	place->sin_family = AF_INET;
	place->sin_addr = value;
	if (ioctl(socket, request, &card))
		give_up(CARD);
}

static void start_card(int socket)
{
	struct ifreq card = {.ifr_name = CARD};
	// The driver finds its device a little after it was loaded.
	while (ioctl(socket, SIOCGIFINDEX, &card))
		usleep(1000);
	set_address(socket, SIOCSIFADDR, address("peer.address"));
	set_address(socket, SIOCSIFNETMASK, (struct in_addr){htonl(0xffffff00)});
	if (ioctl(socket, SIOCGIFFLAGS, &card))
		give_up(CARD);
	card.ifr_flags |= IFF_UP;
	if (ioctl(socket, SIOCSIFFLAGS, &card))
		give_up(CARD);
}

// Sends the gateway a datagram, so that it knows the card's hardware address before anybody asks for it.
static void announce(int socket)
{
	struct sockaddr_in gateway = {.sin_family = AF_INET, .sin_port = htons(9)};
	gateway.sin_addr = address("peer.gateway");
	sendto(socket, "", 1, 0, (struct sockaddr *)&gateway, sizeof gateway);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("peer: runs");
	mkdir("/proc", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL))
		give_up("/proc");
	load_modules();
	int inquiry = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (inquiry < 0)
		give_up("socket");
	start_card(inquiry);
	announce(inquiry);
	close(inquiry);
	serve();
	give_up("serve");
}
