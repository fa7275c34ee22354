// What tests/bench/net/task serves on Uzura, on Linux: one thread that waits for all sockets with epoll.
//
//   5001, TCP   counts what it receives; at the end it answers with the number of bytes, a little-endian uint64_t
//   5002, TCP   sends for ever
//   5003, TCP   sends back what it receives
//   5004, UDP   sends back each datagram
//   5005, TCP   sends one byte and closes
//   80, TCP     answers each HTTP request with 1,024 bytes and keeps the connection
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIECE = 64 * 1024, BODY = 1024, LONGEST_HEAD = 2048, BACKLOG = 512, EVENTS = 64 };

// One socket that is waited for.
struct party {
	int socket;
	// Does what the socket is ready for; false: it is over.
	bool (*ready)(struct party *);
	// What a listener's connections do, and whether they wait to send rather than to receive.
	bool (*service)(struct party *);
	bool sends;
	// Bytes received, and what there is of a request that is not whole.
	uint64_t count;
	size_t held;
	char request[LONGEST_HEAD + 1];
};

static char piece[PIECE];
static char response[256 + BODY];
static size_t response_bytes;
static int waiting;

// Waits for a socket from now on; false: there is no room for it.
static bool add(int socket, bool (*ready)(struct party *), bool sends, struct party **added)
{
	struct party *party = calloc(1, sizeof *party);
	if (!party)
		return false;
	party->socket = socket;
	party->ready = ready;
	struct epoll_event event = {.events = sends ? EPOLLOUT : EPOLLIN, .data.ptr = party};
	if (epoll_ctl(waiting, EPOLL_CTL_ADD, socket, &event)) {
		free(party);
		return false;
	}
	if (added)
		*added = party;
	return true;
}

static bool not_now(void)
{
	return errno == EAGAIN || errno == EINTR;
}

static bool sink(struct party *party)
{
	ssize_t received = read(party->socket, piece, sizeof piece);
	if (received > 0)
		party->count += received;
	if (received == 0 && write(party->socket, &party->count, sizeof party->count) < 0)
		return false;
	return received > 0 || (received < 0 && not_now());
}

static bool source(struct party *party)
{
	return write(party->socket, piece, sizeof piece) >= 0 || not_now();
}

// Writes all of it. The benchmark's clients take each answer before they ask again, so there is room.
static bool write_all(int socket, const char *bytes, size_t count)
{
	return write(socket, bytes, count) == (ssize_t)count;
}

static bool echo(struct party *party)
{
	ssize_t received = read(party->socket, piece, sizeof piece);
	if (received > 0)
		return write_all(party->socket, piece, received);
	return received < 0 && not_now();
}

static bool datagrams(struct party *party)
{
	struct sockaddr_in peer;
	for (;;) {
		socklen_t length = sizeof peer;
		ssize_t received =
			recvfrom(party->socket, piece, sizeof piece, 0, (struct sockaddr *)&peer, &length);
		if (received < 0)
			return not_now();
		// One that does not find its way is lost, as datagrams are.
		if (sendto(party->socket, piece, received, 0, (struct sockaddr *)&peer, length) < 0)
			continue;
	}
}

static bool page(struct party *party)
{
	size_t room = LONGEST_HEAD - party->held;
	ssize_t received = read(party->socket, party->request + party->held, room);
	if (received <= 0)
		return received < 0 && room > 0 && not_now();
	party->held += received;
	party->request[party->held] = 0;
	char *end;
	while ((end = strstr(party->request, "\r\n\r\n"))) {
		if (!write_all(party->socket, response, response_bytes))
			return false;
		end += 4;
		party->held -= end - party->request;
		memmove(party->request, end, party->held + 1);
	}
	return true;
}

static bool greeter(struct party *party)
{
	write_all(party->socket, "y", 1);
	return false;
}

// Takes a connection. One that needs no waiting is served at once.
static bool listener(struct party *party)
{
	int socket = accept4(party->socket, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (socket < 0)
		return true;
	if (party->service == greeter) {
		struct party passing = {.socket = socket};
		greeter(&passing);
		close(socket);
		return true;
	}
	int on = 1;
	setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	if (!add(socket, party->service, party->sends, NULL))
		close(socket);
	return true;
}

static bool open_port(int port, int type, bool (*service)(struct party *), bool sends)
{
	int handle = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(port)};
	if (handle < 0 || bind(handle, (struct sockaddr *)&own, sizeof own))
		return false;
	if (type == SOCK_DGRAM)
		return add(handle, service, false, NULL);
	struct party *party;
	if (listen(handle, BACKLOG) || !add(handle, listener, false, &party))
		return false;
	party->service = service;
	party->sends = sends;
	return true;
}

static bool open_ports(void)
{
	return open_port(5001, SOCK_STREAM, sink, false) && open_port(5002, SOCK_STREAM, source, true) &&
	       open_port(5003, SOCK_STREAM, echo, false) && open_port(5004, SOCK_DGRAM, datagrams, false) &&
	       open_port(5005, SOCK_STREAM, greeter, false) && open_port(80, SOCK_STREAM, page, false);
}

static void write_response(void)
{
	int head = sprintf(response, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", BODY);
	memset(response + head, 'x', BODY);
	response_bytes = head + BODY;
}

void serve(void)
{
	// A peer that is gone is an error of its write and no more.
	signal(SIGPIPE, SIG_IGN);
	write_response();
	waiting = epoll_create1(EPOLL_CLOEXEC);
	if (waiting < 0 || !open_ports())
		return;
	puts("peer: serves");
	struct epoll_event events[EVENTS];
	for (;;) {
		int count = epoll_wait(waiting, events, EVENTS, -1);
		if (count < 0 && errno != EINTR)
			return;
		for (int i = 0; i < count; i++) {
			struct party *party = events[i].data.ptr;
			if (!party->ready(party)) {
				close(party->socket);
				free(party);
			}
		}
	}
}
