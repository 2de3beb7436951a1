"""Settings of qmail's patches and of qpsmtpd that decide about mail there, and do nothing here.

And at the end those of qsmtpd's own by a name that is not theirs.

Facts from the documents and sources of SPAMCONTROL and s/qmail, of the qmails of
sagredo, jms1 and eQmail, of qmailtoaster, IndiMail, qmail-ldap and Qsmtpd, and of
the patches chkuser, qregex, eMPF and qmail-spp.
"""

from __future__ import annotations

#: (what to do instead, variables, control files).  A name that ends in `*` stands for all
#: that begin like it.
SETTINGS: tuple[tuple[str, str, str], ...] = (
    (
        "is not read: control/dnsbls has lists in the DNS, `zone weight pattern` in each line",
        "DNSBLLIST RBL",
        "dnsbllist dnsbl_zones rbllist",
    ),
    (
        "is not read: control/rhsbls has lists of domains, `zone weight pattern` in each line",
        "",
        "rhsbl_zones",
    ),
    ("does not switch its filter off here: QSMTPD_PLUGINS=-dnsbl does", "DNSBLSKIP", ""),
    (
        "is not read: with DNSTROUBLE=defer, who cannot be looked up is put off",
        "DNSBLFAILCLOSED",
        "dnsblfailclosed",
    ),
    (
        "is not read: lists with the weight 0 in control/dnsbls refuse nobody and are in the log",
        "RBLONLYHEADER",
        "",
    ),
    ("is not read: SPFBEHAVIOR has SPF checked, and its results in the header", "SPFINFO SPF", ""),
    (
        "is not read: SPF knows the records of domains alone; the entries of control/immune are"
        " not asked about",
        "",
        "spfrules spflocalrules spfguess",
    ),
    ("is not read: what a domain says itself (exp=) is in the reply", "", "spfexp spfexplain"),
    (
        "is not read: MFDNSCHECK asks the DNS for the domains of senders",
        "MFCHECK DNSCHECK RETURNMXCHECK SENDERCHECK",
        "mfcheck",
    ),
    (
        "is not read: entries ?user@domain in badmailfrom are not looked up by MFDNSCHECK",
        "",
        "nodnscheck",
    ),
    ("is not read: use HELOCHECK=A", "HELO_DNS_CHECK", ""),
    (
        "is not read: control/badattachments has names of attachments, as *.exe, and badmimetypes"
        " knows them by what they begin with",
        "BADEXT BADEXTPATTERNS REJECTEXEC SIGNATURES",
        "badext badext.cdb badextpatterns signatures",
    ),
    (
        "looks into messages as no filter of qsmtpd does: let the queue program do it, or use a"
        " plugin",
        "BASE64 BODYCHECK VIRUSCHECK SURBL",
        "bodycheck",
    ),
    (
        "is for a queue program of SPAMCONTROL's, and qsmtpd does not do it: let a wrapper in"
        " QMAILQUEUE do it",
        "QHPSI DELIVERTO",
        "",
    ),
    (
        "is not read: use control/greylist, or servers of Postfix's policy protocol, as postgrey,"
        " in control/policyservers",
        "POSTGREY GREYIP",
        "greylisting",
    ),
    (
        "checks recipients, and is not read: list them in validrcptto.cdb or in recipients, or"
        " have a program asked by RCPTCHECK",
        "CHKUSER_* VALIDRCPTTO MOREVALIDRCPTTO_CDB CHECKRECIPIENT GOODRCPTTO GOODRCPTPATTERNS"
        " QMAILRRTDENYALL",
        "validrcptto morevalidrcptto morevalidrcptto.cdb goodrcptto goodrcptto.cdb"
        " goodrcptpatterns chkrcptdomains addrcheck.cdb",
    ),
    (
        "is not read: TARPITCOUNT puts off who guesses recipients, KARMALIMIT sends it away",
        "VALIDRCPTTO_LIMIT BRTLIMIT MAX_RCPT_ERRCOUNT BADRCPTDELAY",
        "brtlimit",
    ),
    ("is not read: use MAXRECIPIENTS", "MAXRCPT MAXRCPTCOUNT DISABLE_MAXRCPT", "maxrcpt"),
    (
        "is not read: move its entries to badmailfrom, with re: before regular expressions",
        "BADMAILFROM BADMAILPATTERNS",
        "badmailpatterns badmailfrom.cdb badmailfrom.sql",
    ),
    (
        "is not read: move its entries to badrcptto, with re: before regular expressions",
        "BADRCPTTO BADRCPTPATTERNS",
        "badmailto badrcptpatterns morebadrcptto morebadrcptto.cdb badrcptto.cdb badrcptto.sql",
    ),
    (
        "is not read: badhelo and HELOCHECK are",
        "BADHELO BADHELOCHECK",
        "badhelo.cdb badhelo.sql",
    ),
    (
        "is not read by itself: give it to a filter of its own, by control/plugins:"
        " badmailfrom:2 badmailfrom=badmailfromnorelay immune=relay",
        "",
        "badmailfromnorelay",
    ),
    (
        "is not read by itself: give it to a filter of its own, by control/plugins:"
        " badrcptto:2 badrcptto=badrcpttonorelay immune=relay",
        "",
        "badrcpttonorelay",
    ),
    (
        "is not read by itself: give it to a filter of its own, by control/plugins:"
        " badrcptto:2 badrcptto=badmailtonorelay immune=relay",
        "",
        "badmailtonorelay",
    ),
    (
        "is not read by itself: badhelo is not for clients that may relay, move the entries there",
        "",
        "badhelonorelay",
    ),
    (
        "is not read: in badmailfrom, @domain- is for clients whose host name is unknown",
        "",
        "badmailfrom-unknown",
    ),
    (
        "pairs senders and recipients, which no filter of qsmtpd does: use a plugin",
        "ACCESSLIST",
        "badmailfromto accesslist policy",
    ),
    (
        "makes no list one of regular expressions here: write re: before each of them",
        "QREGEX",
        "qregex",
    ),
    (
        "does not switch its filter off here: QSMTPD_PLUGINS=-badmailfrom does",
        "DISABLE_BADMAILFROM",
        "",
    ),
    (
        "does not switch its filter off here: QSMTPD_PLUGINS=-helocheck does",
        "NOBADHELO",
        "",
    ),
    (
        "is not read: refuse clients in the rules of tcpserver or qsmtpd-server (-x), by deny or"
        " RBLSMTPD",
        "BADIP BADIPCHECK BADHOST BADHOSTCHECK REQPTR TCPPARANOID SHUTDOWN 421GREETING"
        " 550GREETING SMTP550DISCONNECT DENYMAIL",
        "badip badip.cdb badhost badhost.cdb",
    ),
    (
        "pairs senders and clients' addresses: use LOCALMFCHECK, or @domain= in badmailfrom",
        "HOSTACCESS",
        "hostaccess",
    ),
    ("is not read: badhelo with the entries * and !*.* does it", "ENFORCE_FQDN_HELO", ""),
    (
        "is not read: an entry @domain+ in badmailfrom keeps a domain for who may relay",
        "ANTISPOOFING CUGMAIL",
        "authdomains authdomains.cdb",
    ),
    ("is not read: use LOCALMFCHECK", "FORCEAUTHMAILFROM MASQUERADE", ""),
    (
        "takes mail and throws it away, which qsmtpd never does: use badmailfrom or badrcptto",
        "BLACKHOLEDSENDER BLACKHOLEDPATTERNS BLACKHOLERCPT BLACKHOLERCPTPATTERNS",
        "blackholedsender blackholedsender.cdb blackholedpatterns blackholedrcpt blackholercpt"
        " blackholedrcpt.cdb blackholedrcptpatterns blackholercptpatterns",
    ),
    ("is not read: use QMAILHOME, below which is control/", "CONTROLDIR", ""),
    (
        "is against RFC 5321, and not done; BOUNCECHECK refuses bounces to several recipients",
        "REJECTNULLSENDERS NOBOUNCE",
        "rejectnullsenders",
    ),
    ("is not done: use a plugin", "SIGNKEY SANITYCHECK", "signkey"),
    (
        "is not read: the entries *%*, *@*@* and *!* in badrcptto refuse such recipients",
        "BLOCKRELAYPROBE RELAYREJ",
        "rejectrelaytest",
    ),
    (
        "is not read: the rules of tcpserver or qsmtpd-server (-x) set RELAYCLIENT, and nobody may"
        " relay by a sender that is easily forged",
        "CHECKRELAY",
        "relaymailfrom relayclients relayclients.cdb relaydomains relaydomains.cdb norelayclients",
    ),
    ("is not read: use FORCETLS=1", "FORCE_TLS TLSREQUIRED REQUIRETLS", "forcesslauth"),
    ("is not read: use QSMTPD_TLS=off", "DENY_TLS DISABLETLS", ""),
    ("is not read: use REQUIRE_AUTH=1", "REQUIREAUTH AUTHREQUIRED AUTH_ALL SUBMISSIONPORT", ""),
    (
        "is not read: SMTPAUTH says which mechanisms there are",
        "ALLOW_CRAM DISABLE_AUTH_LOGIN DISABLE_AUTH_PLAIN DISABLE_CRAM_MD5",
        "authtypes",
    ),
    ("is not read: use a checkpassword program", "AUTH_CDB", ""),
    ("is not read: use AUTHCLEAR=1", "ALLOW_INSECURE_AUTH", ""),
    ("is not read: use BARELF=normalize", "ALLOW_BARELF", ""),
    ("is not read: use DROP_PRE_GREET", "DROPRUSHGREET", ""),
    (
        "names plugins of another program: see qsmtpd-plugins(7) for those of qsmtpd",
        "SMTP_PLUGIN",
        "filterconf",
    ),
    ("is not read: its name is SESSION_TIMEOUT", "SESSIONTIMEOUT", ""),
    ("is not read: its name is ERROR_FD", "ERRORFD", ""),
    (
        "is not read: this setting has no file, but a variable of the same name, in capitals",
        "",
        "bouncecheck helocheck localmfcheck mfdnscheck rcptcheck karmalimit forcetls require_auth"
        " smtpauth",
    ),
)
#: These are numbers, or switches, for which 0 is off.
NUMBERS = (
    "MFCHECK SPF VALIDRCPTTO_LIMIT BRTLIMIT MAX_RCPT_ERRCOUNT MAXRCPT MAXRCPTCOUNT"
    " REJECTNULLSENDERS RELAYREJ FORCE_TLS DENY_TLS DISABLETLS ALLOW_CRAM ALLOW_INSECURE_AUTH"
    " FORCEAUTHMAILFROM DNSBLFAILCLOSED SURBL QREGEX CHECKRECIPIENT mfcheck brtlimit"
    " maxrcpt dnsblfailclosed rejectnullsenders rejectrelaytest qregex bouncecheck karmalimit"
    " forcetls require_auth"
)
#: SPAMCONTROL's word for a filter that is off, and the variables that are SPAMCONTROL's.
OFF = b"-"
SPAMCONTROLS = "BASE64 QHPSI DELIVERTO"
