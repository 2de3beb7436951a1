# make: a .venv with qsmtpd and what it needs.  The other targets: see README.md.
PYTHON = python3
PYTHONS ?=
PREFIX = /usr/local
PORT ?= 2525
VENV = .venv
VENV_OPTIONS =
DEMO = .demo
PROGRAMS = qsmtpd qsmtpd-checkpassword qsmtpd-maildir qsmtpd-qmqpc qsmtpd-qmqpd qsmtpd-qmtpd \
	qsmtpd-server starttls-probe
MAN = $(wildcard man/*.[1578])
# Above this folder a path may have blanks: it is used in quotes, and in no function of make.
RUN = $(VENV)/bin/python3 -m
# Each process would compile all tests anew where the environment forbids to keep bytecode.
TEST = PYTHONDONTWRITEBYTECODE= $(RUN) pytest --dist worksteal
# Fast tests compute: one process more than there are cores; the others wait as much: two each.
FAST_JOBS = $(shell echo $$(($$(nproc) + 1)))
JOBS = $(shell echo $$((2 * $$(nproc))))

all: $(VENV)/ready

# $(call venv,WHAT): a venv with WHAT.  The package is used where it lies.
define venv
@echo "$(VENV): $$("$(PYTHON)" --version)"
@"$(PYTHON)" -m venv $(VENV_OPTIONS) $(VENV)
@echo "$(VENV): pip install -e '$(1)'"
@$(RUN) pip install -q --disable-pip-version-check -e '$(1)'
@echo "$(VENV): the programs"
@for program in $(PROGRAMS); do \
	bin/launcher "$(CURDIR)/$(VENV)/bin/python3" "$(CURDIR)" bin/$$program \
	  >$(VENV)/bin/$$program || exit; \
done
@$(RUN) compileall -q qsmtpd
@touch $(VENV)/ready
endef

SETUP = setup.cfg pyproject.toml Makefile bin/launcher $(PROGRAMS:%=bin/%)

$(VENV)/ready: $(SETUP)
	$(call venv,.)

# The same with what tests need: pytest, hypothesis, ruff, mypy ...
$(VENV)/ready-for-tests: $(SETUP)
	$(call venv,.[test])
	@touch $@

tools: $(VENV)/ready-for-tests

demo: all
	@$(VENV)/bin/python3 tests/demo.py --port '$(PORT)' $(DEMO)

serve: all
	@$(VENV)/bin/python3 tests/demo.py --port '$(PORT)' --serve $(DEMO)

# The four levels of tests; setup.cfg says what their marks mean.
# PYTHONS="python3.11 python3.13": the fast tests with each of these, in a venv of its own.
check: lint
ifeq ($(strip $(PYTHONS)),)
	@$(MAKE) --no-print-directory fast
else
	@for python in $(PYTHONS); do \
		version=$$("$$python" -c 'import platform; print(platform.python_version())') && \
		$(MAKE) --no-print-directory fast PYTHON="$$python" VENV=.venv-$$version || exit; \
	done
endif

fast: $(VENV)/ready-for-tests
	$(TEST) -n $(FAST_JOBS) -m 'not slow and not interop and not long' \
	  --hypothesis-profile fast

test: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py test
	$(TEST) -n $(JOBS)

interop: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py interop
	$(TEST) -n $(JOBS) -m interop
	@$(MAKE) --no-print-directory debian VENV=.venv-debian \
	  VENV_OPTIONS=--system-site-packages PYTHON=/usr/bin/python3

# Part of interop: TLS, DKIM and the probe with Debian's pyOpenSSL and cryptography, which are older.
DEBIAN = tests/test_tls*.py tests/test_probe*.py tests/test_server_reload.py tests/test_*dkim*.py
DEBIAN_OPENSSL = /usr/lib/python3/dist-packages/OpenSSL/SSL.py

debian:
	@if [ -e $(DEBIAN_OPENSSL) ] || [ "$$CI" = true ]; then \
		$(MAKE) --no-print-directory debian-tests; \
	else echo "$(DEBIAN_OPENSSL) is missing: nothing is tested with Debian's"; fi

debian-tests: $(VENV)/ready-for-tests
	@$(VENV)/bin/python3 -c 'import OpenSSL.SSL, cryptography; \
	  print("pyOpenSSL", OpenSSL.__version__, "cryptography", cryptography.__version__); \
	  assert OpenSSL.SSL.__file__ == "$(DEBIAN_OPENSSL)"'
	$(TEST) -n $(JOBS) -m 'not long' --hypothesis-profile fast $(DEBIAN)

# By hand: hours.
long: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py long
	$(TEST) -n $(JOBS) -m 'long or hypothesis' --hypothesis-profile long --timeout 14400

# QUICK=1: only whether it works; ROUNDS=3: fewer; LOADS=quit,refused: these alone (they are in
# tests/bench/steps.py); WHO=qsmtpd-server,smtpfront: contestants with these words.  With any of
# them the results are not replaced.
BENCH_RESULTS = $(if $(QUICK)$(ROUNDS)$(LOADS)$(WHO),build/bench-results.md,\
  man/bench-results.md --readme README.md)

bench: all
	$(VENV)/bin/python3 tests/tools.py bench
	-$(RUN) pip install -q --disable-pip-version-check 'aiosmtpd >= 1.4.5'
	mkdir -p build
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench $(if $(QUICK),--quick) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(LOADS),--loads $(LOADS)) \
	  $(if $(WHO),--who $(WHO)) --results $(BENCH_RESULTS)

# What each filter adds to a cold session: the table of qsmtpd-filters(5), COST.
cost: all
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench.cost
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench.mx

# Messages/s of front ends and hubs: the table of man/examples/hubs/README.md.
hubs: tools
	$(VENV)/bin/python3 tests/tools.py bench
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench.hubs $(if $(QUICK),--quick) \
	  $(if $(ROUNDS),--rounds $(ROUNDS))

lint: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py check
	$(RUN) ruff check qsmtpd tests
	$(RUN) ruff format --check qsmtpd tests
	$(RUN) mypy
	@# Whether the pages of other programs are installed says nothing of ours.
	@if command -v mandoc >/dev/null || [ "$$CI" = true ]; then \
		echo mandoc -T lint $(MAN); \
		{ mandoc -T lint $(MAN) 2>&3 | grep -v 'referenced manual not found'; } 3>&1 \
		  | grep -v 'mandoc.db' | (! grep .); \
	else echo 'mandoc is missing: the manual pages are not checked'; fi

# Where install puts everything, and where uninstall takes it away again.
TO = $(DESTDIR)$(PREFIX)
LIB = $(TO)/lib/qsmtpd
DOC = $(TO)/share/doc/qsmtpd
FOLDERS = bin lib/qsmtpd share/doc/qsmtpd $(patsubst .%,share/man/man%,$(sort $(suffix $(MAN))))

define refuse
{ echo "make $@: cannot write to $(TO)/$$folder: run it as root, or with another PREFIX=" >&2; \
  exit 1; }
endef

# It becomes part of the programs, which start anywhere.
absolute = case "$(PREFIX)" in \
  /*) ;; *) echo "make $@: PREFIX=$(PREFIX) does not begin with a /" >&2; exit 1 ;; esac

# Whoever is not the owner of Python has to come to it, and through each link on the way.
define OTHERS_CAN_RUN
import pathlib, sys
path, steps = pathlib.Path(sys.executable), []
while path:
    steps += [path, *path.parents]
    path = path.is_symlink() and path.parent / path.readlink()
if not all(step.stat().st_mode & 1 for step in steps):
    sys.exit(f"warning: other users cannot run {sys.executable}: choose another with PYTHON=")
endef
export OTHERS_CAN_RUN

# Whatever the umask, and the modes of this checkout: the user of the service has to read it.
install:
	@$(absolute)
	@for folder in $(FOLDERS); do \
		install -d "$(TO)/$$folder" 2>/dev/null && [ -w "$(TO)/$$folder" ] || $(refuse); \
	done
	rm -rf "$(LIB)/new"
	cp -R qsmtpd "$(LIB)/new"
	find "$(LIB)/new" -name __pycache__ -prune -exec rm -rf {} +
	"$(PYTHON)" -m compileall -q -f -d "$(PREFIX)/lib/qsmtpd/qsmtpd" "$(LIB)/new"
	chmod -R u=rwX,go=rX "$(LIB)/new"
	rm -rf "$(LIB)/qsmtpd"
	mv "$(LIB)/new" "$(LIB)/qsmtpd"
	ln -sf "$$("$(PYTHON)" -c 'import sys; print(sys.executable)')" "$(LIB)/python3"
	@"$(PYTHON)" -c 'import OpenSSL' 2>/dev/null \
	  || echo "warning: $(PYTHON) has no pyOpenSSL, so there will be no STARTTLS"
	@"$(PYTHON)" -c 'import idna' 2>/dev/null \
	  || echo "warning: $(PYTHON) has no idna, which SMTPUTF8 needs: see smtputf8 in qsmtpd-control(5)"
	@# The Python of a venv knows its packages only by its own path.  Where the kernel would
	@# refuse to start it for others, a shell says so.
	python=$$("$(PYTHON)" -c 'import sys; print(sys.executable if sys.prefix != sys.base_prefix \
	  else "$(PREFIX)/lib/qsmtpd/python3")'); \
	"$(PYTHON)" -c "$$OTHERS_CAN_RUN" && form= || form=sh; \
	for program in $(PROGRAMS); do \
		rm -f "$(TO)/bin/$$program"; \
		bin/launcher "$$python" "$(PREFIX)/lib/qsmtpd" bin/$$program $$form \
		  >"$(TO)/bin/$$program" || exit; \
		chmod 755 "$(TO)/bin/$$program" || exit; \
	done
	for page in $(MAN); do \
		installed="$(TO)/share/man/man$${page##*.}/$${page##*/}"; \
		sed 's|/usr/local/|$(PREFIX)/|g' $$page >"$$installed" && chmod 644 "$$installed" || exit; \
	done
	rm -rf "$(DOC)/examples"
	cp -R man/examples "$(DOC)/examples"
	cd man/examples && find . -type f | while read -r file; do \
		sed 's|/usr/local/bin/|$(PREFIX)/bin/|g' "$$file" >"$(DOC)/examples/$$file" || exit; \
	done
	chmod -R u=rwX,go=rX "$(DOC)/examples"

uninstall:
	@$(absolute)
	@for folder in $(FOLDERS); do \
		[ -w "$(TO)/$$folder" ] || [ ! -e "$(TO)/$$folder" ] || $(refuse); \
	done
	for program in $(PROGRAMS); do rm -f "$(TO)/bin/$$program" || exit; done
	for page in $(MAN); do rm -f "$(TO)/share/man/man$${page##*.}/$${page##*/}" || exit; done
	rm -rf "$(LIB)" "$(DOC)"

clean:
	rm -rf .venv .venv-* $(DEMO) build *.egg-info

.PHONY: all tools demo serve check fast test interop debian debian-tests long bench cost hubs lint install uninstall clean
.NOTPARALLEL:
