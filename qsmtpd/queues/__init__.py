"""The queue programs that come with qsmtpd, with the interface of qmail-queue."""
