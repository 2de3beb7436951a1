# make: a .venv with qsmtpd and what it needs.  The other targets: see README.md.
PYTHON = python3
PREFIX = /usr/local
PORT = 2525
VENV = .venv
DEMO = .demo
PROGRAMS = qsmtpd qsmtpd-checkpassword qsmtpd-maildir qsmtpd-server starttls-probe
MAN = $(wildcard man/*.[1578])

all: $(VENV)/ready

# The package is used where it lies.
$(VENV)/ready: setup.cfg pyproject.toml Makefile bin/launcher $(PROGRAMS:%=bin/%)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -e '.[test]'
	for program in $(PROGRAMS); do \
		bin/launcher $(abspath $(VENV))/bin/python3 "$(CURDIR)" bin/$$program \
		  >$(VENV)/bin/$$program || exit; \
	done
	$(VENV)/bin/python3 -m compileall -q qsmtpd
	touch $@

demo: all
	$(VENV)/bin/python3 tests/demo.py --port $(PORT) $(DEMO)

serve: all
	$(VENV)/bin/python3 tests/demo.py --port $(PORT) --serve $(DEMO)

test: all
	$(VENV)/bin/python3 tests/tools.py
	$(VENV)/bin/python3 -m pytest

# QUICK=1: only whether it works; ROUNDS=3: fewer.  Neither replaces the results.
BENCH_RESULTS = $(if $(QUICK)$(ROUNDS),build/bench-results.md,man/bench-results.md --readme README.md)

bench: all
	$(VENV)/bin/python3 tests/tools.py --bench
	-$(VENV)/bin/pip install -q --disable-pip-version-check 'aiosmtpd >= 1.4.5'
	mkdir -p build
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench $(if $(QUICK),--quick) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) --results $(BENCH_RESULTS)

lint: all
	$(VENV)/bin/python3 tests/tools.py
	$(VENV)/bin/ruff check qsmtpd tests
	$(VENV)/bin/ruff format --check qsmtpd tests
	$(VENV)/bin/mypy
	@# Whether other programs' pages are installed says nothing of ours.
	mandoc -T lint $(MAN) 2>&1 | grep -v -e 'referenced manual not found' -e 'mandoc.db' | (! grep .)

install:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/qsmtpd
	cp -R qsmtpd $(DESTDIR)$(PREFIX)/lib/qsmtpd/
	$(PYTHON) -m compileall -q -f -d $(PREFIX)/lib/qsmtpd/qsmtpd $(DESTDIR)$(PREFIX)/lib/qsmtpd/qsmtpd
	ln -sf "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(DESTDIR)$(PREFIX)/lib/qsmtpd/python3
	@$(PYTHON) -c 'import sys, pathlib; p = pathlib.Path(sys.executable).resolve(); \
	  all(d.stat().st_mode & 1 for d in (p, *p.parents)) \
	  or print("warning: other users cannot run", p, "- choose another with PYTHON=")'
	@$(PYTHON) -c 'import OpenSSL' 2>/dev/null \
	  || echo "warning: $(PYTHON) has no pyOpenSSL, so there will be no STARTTLS"
	@# The Python of a venv knows its packages only by its own path.
	python=$$($(PYTHON) -c 'import sys; print(sys.executable if sys.prefix != sys.base_prefix \
	  else "$(PREFIX)/lib/qsmtpd/python3")'); \
	for program in $(PROGRAMS); do \
		rm -f $(DESTDIR)$(PREFIX)/bin/$$program; \
		bin/launcher "$$python" $(PREFIX)/lib/qsmtpd bin/$$program \
		  >$(DESTDIR)$(PREFIX)/bin/$$program || exit; \
		chmod 755 $(DESTDIR)$(PREFIX)/bin/$$program || exit; \
	done
	for page in $(MAN); do \
		install -d $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}; \
		install -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/ || exit; \
	done

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

.PHONY: all demo serve test bench lint install clean
