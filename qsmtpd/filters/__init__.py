"""The filters that come with the program, one file each (qsmtpd-filters(5))."""
