# make: a .venv with qsmtpd and what it needs.  The other targets: see README.md.
PYTHON = python3
PYTHONS ?=
PREFIX = /usr/local
PORT ?= 2525
VENV = .venv
DEMO = .demo
PROGRAMS = qsmtpd qsmtpd-checkpassword qsmtpd-maildir qsmtpd-server starttls-probe
MAN = $(wildcard man/*.[1578])
# Above this folder a path may have blanks: it is used in quotes, and in no function of make.
RUN = $(VENV)/bin/python3 -m
TEST = $(RUN) pytest --dist worksteal
# Fast tests compute: one process more than there are cores; the others wait as much: two each.
FAST_JOBS = $(shell echo $$(($$(nproc) + 1)))
JOBS = $(shell echo $$((2 * $$(nproc))))

all: $(VENV)/ready

# $(call venv,WHAT): a venv with WHAT.  The package is used where it lies.
define venv
@echo "$(VENV): $$("$(PYTHON)" --version)"
@"$(PYTHON)" -m venv $(VENV)
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

# By hand: hours.
long: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py test
	$(TEST) -n $(JOBS) -m 'long or hypothesis' --hypothesis-profile long --timeout 14400

# QUICK=1: only whether it works; ROUNDS=3: fewer.  Neither replaces the results.
BENCH_RESULTS = $(if $(QUICK)$(ROUNDS),build/bench-results.md,man/bench-results.md --readme README.md)

bench: all
	$(VENV)/bin/python3 tests/tools.py bench
	-$(RUN) pip install -q --disable-pip-version-check 'aiosmtpd >= 1.4.5'
	mkdir -p build
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench $(if $(QUICK),--quick) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) --results $(BENCH_RESULTS)

# What each filter adds to a cold session: the table of qsmtpd-filters(5), COST.
cost: all
	PYTHONPATH=tests $(VENV)/bin/python3 -m bench.cost

lint: $(VENV)/ready-for-tests
	$(VENV)/bin/python3 tests/tools.py check
	$(RUN) ruff check qsmtpd tests
	$(RUN) ruff format --check qsmtpd tests
	$(RUN) mypy
	@# Whether the pages of other programs are installed says nothing of ours.
	@if command -v mandoc >/dev/null || [ "$$CI" = true ]; then \
		echo mandoc -T lint $(MAN); \
		mandoc -T lint $(MAN) 2>&1 \
		  | grep -v -e 'referenced manual not found' -e 'mandoc.db' | (! grep .); \
	else echo 'mandoc is missing: the manual pages are not checked'; fi

install:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/qsmtpd
	cp -R qsmtpd $(DESTDIR)$(PREFIX)/lib/qsmtpd/
	"$(PYTHON)" -m compileall -q -f -d $(PREFIX)/lib/qsmtpd/qsmtpd $(DESTDIR)$(PREFIX)/lib/qsmtpd/qsmtpd
	ln -sf "$$("$(PYTHON)" -c 'import sys; print(sys.executable)')" $(DESTDIR)$(PREFIX)/lib/qsmtpd/python3
	@"$(PYTHON)" -c 'import sys, pathlib; p = pathlib.Path(sys.executable).resolve(); \
	  all(d.stat().st_mode & 1 for d in (p, *p.parents)) \
	  or print("warning: other users cannot run", p, "- choose another with PYTHON=")'
	@"$(PYTHON)" -c 'import OpenSSL' 2>/dev/null \
	  || echo "warning: $(PYTHON) has no pyOpenSSL, so there will be no STARTTLS"
	@# The Python of a venv knows its packages only by its own path.
	python=$$("$(PYTHON)" -c 'import sys; print(sys.executable if sys.prefix != sys.base_prefix \
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
	rm -rf .venv .venv-* $(DEMO) build *.egg-info

.PHONY: all tools demo serve check fast test interop long bench cost lint install clean
.NOTPARALLEL:
