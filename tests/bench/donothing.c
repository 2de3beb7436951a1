/* The queue program of every contestant: reads the message on fd 0 and the
 * envelope on fd 1, each to its end, keeps nothing, and says that all is well. */
#include <unistd.h>

static char buffer[65536];

int main(void)
{
	int fd;
	ssize_t got;

	for (fd = 0; fd <= 1; fd++) {
		do
			got = read(fd, buffer, sizeof buffer);
		while (got > 0);
		if (got < 0)
			return 54; /* qmail-queue's "read error" */
	}
	return 0;
}
