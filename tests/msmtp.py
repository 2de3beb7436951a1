"""msmtp, a client that is not ours: it sends one short message."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import needs


def msmtp(folder: Path, port: int, *settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run it through STARTTLS, without a look at our certificate, and with these settings."""
    file = folder / "msmtprc"
    common = ("account default", "host 127.0.0.1", f"port {port}", "from joe@ok.example")
    tls = ("tls on", "tls_starttls on", "tls_certcheck off")
    file.write_text("\n".join((*common, *tls, *settings)) + "\n")
    file.chmod(0o600)
    return subprocess.run(
        [needs("msmtp"), "-C", str(file), "x@no.example"],
        input=b"Subject: x\n\nhi\n",
        capture_output=True,
        check=False,
    )
