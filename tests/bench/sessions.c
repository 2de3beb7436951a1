/* sessions PORT NUMBER AT_A_TIME [CODE LINE] ...
 *
 * So many sessions with 127.0.0.1, by so many processes one after the other: the
 * greeting, each line when the one before was answered, and the server's end.  A
 * reply must begin with its CODE.  Exits 1, with what was said, where one does not. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static char said[65536];

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, said);
	return 1;
}

/* Is what was said a whole reply: does its last line have no "-" behind the code? */
static int whole(size_t length)
{
	size_t start;

	if (length < 5 || said[length - 1] != '\n')
		return 0;
	for (start = length - 1; start > 0 && said[start - 1] != '\n'; start--)
		;
	return said[start + 3] != '-';
}

static int expect(int fd, const char *code)
{
	size_t length = 0;
	ssize_t got;

	do {
		got = read(fd, said + length, sizeof said - 1 - length);
		if (got <= 0)
			return fail("hung up");
		length += got;
		said[length] = 0;
	} while (!whole(length));
	return strncmp(said, code, strlen(code)) ? fail("said") : 0;
}

static int session(const struct sockaddr_in *to, char **words)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct timeval patience = {60, 0};

	said[0] = 0;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof *to))
		return fail("cannot connect");
	if (expect(fd, "220"))
		return 1;
	for (; words[0] && words[1]; words += 2) {
		size_t length = strlen(words[1]);

		if (write(fd, words[1], length) != (ssize_t)length)
			return fail("cannot write");
		if (expect(fd, words[0]))
			return 1;
	}
	while (read(fd, said, sizeof said) > 0)
		;
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	int failed = 0, status, i, number, clients;

	if (argc < 4)
		return 100;
	to.sin_port = htons(atoi(argv[1]));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	number = atoi(argv[2]);
	clients = atoi(argv[3]);
	for (i = 0; i < clients; i++) {
		int n;

		switch (fork()) {
		case -1:
			return fail("cannot fork");
		case 0:
			for (n = i; n < number; n += clients)
				if (session(&to, argv + 4))
					return 1;
			return 0;
		}
	}
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}
