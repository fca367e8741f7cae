// The limit: a server that does nothing but read the bytes of requests and write the
// bytes of answers, with epoll and one thread.
//
// usage: echo tcp PORT | echo unix PATH   (PORT 0 takes a free one)
//
// It prints the port it listens on. A connection begins with eight bytes: the length
// of a request and that of an answer, as little-endian numbers of 32 bits. From then
// on every request's length of bytes is answered with an answer's length, those that
// came together in one write.

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct conn {
	int fd;
	unsigned char hello[8];
	size_t greeted;  // bytes of hello that are there
	uint32_t request, answer;
	uint64_t got;    // bytes of a request that is not complete
	uint64_t owed;   // bytes of answers not yet written
	int writing;     // whether epoll watches for room
};

static char in[256 << 10];
static char out[256 << 10];

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static int listen_on(const char *network, const char *address) {
	int fd;
	if (strcmp(network, "unix") == 0) {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		strncpy(a.sun_path, address, sizeof a.sun_path - 1);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
			fail("bind");
	} else {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(address))};
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0)
			fail("bind");
		socklen_t n = sizeof a;
		getsockname(fd, (struct sockaddr *)&a, &n);
		printf("%d\n", ntohs(a.sin_port));
	}
	if (listen(fd, 1024) < 0)
		fail("listen");
	if (strcmp(network, "unix") == 0)
		printf("0\n");
	fflush(stdout);
	return fd;
}

static void drop(struct conn *c) {
	close(c->fd);
	free(c);
}

// Writes what is owed; returns 0 if the connection is lost.
static int answer(int epoll, struct conn *c) {
	while (c->owed > 0) {
		size_t n = c->owed < sizeof out ? c->owed : sizeof out;
		ssize_t w = write(c->fd, out, n);
		if (w < 0 && errno == EAGAIN)
			break;
		if (w <= 0)
			return 0;
		c->owed -= w;
	}
	int writing = c->owed > 0;
	if (writing != c->writing) {
		struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
		epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
		c->writing = writing;
	}
	return 1;
}

static void serve(int epoll, struct conn *c, uint32_t events) {
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = read(c->fd, in, sizeof in);
		if (n <= 0) {
			if (n < 0 && errno == EAGAIN)
				return;
			drop(c);
			return;
		}
		size_t skip = sizeof c->hello - c->greeted;
		if (skip > (size_t)n)
			skip = n;
		memcpy(c->hello + c->greeted, in, skip);
		c->greeted += skip;
		if (skip > 0 && c->greeted == sizeof c->hello) {
			memcpy(&c->request, c->hello, 4);
			memcpy(&c->answer, c->hello + 4, 4);
			if (c->request == 0) {
				drop(c);
				return;
			}
		}
		if (c->greeted < sizeof c->hello)
			return;
		c->got += n - skip;
		c->owed += c->got / c->request * c->answer;
		c->got %= c->request;
	}
	if (!answer(epoll, c))
		drop(c);
}

int main(int argc, char **argv) {
	if (argc != 3) {
		fprintf(stderr, "usage: echo tcp PORT | echo unix PATH\n");
		return 2;
	}
	memset(out, 'x', sizeof out);
	int listener = listen_on(argv[1], argv[2]);
	int epoll = epoll_create1(0);
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
	epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &e);
	for (;;) {
		struct epoll_event ready[256];
		int n = epoll_wait(epoll, ready, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = ready[i].data.ptr;
			if (c != NULL) {
				serve(epoll, c, ready[i].events);
				continue;
			}
			int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
			if (fd < 0)
				continue;
			int one = 1;
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			c = calloc(1, sizeof *c);
			c->fd = fd;
			e.events = EPOLLIN;
			e.data.ptr = c;
			epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e);
		}
	}
}
