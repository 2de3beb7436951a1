// Evaluates DMARC by npm's mailauth: cases as JSON on stdin, what it says of each on stdout.
const fs = require('node:fs');
const { createRequire } = require('node:module');

const { dmarc } = createRequire(process.argv[2])('mailauth/lib/dmarc');

function fail(code) {
    throw Object.assign(new Error(code), { code });
}

async function evaluate(one) {
    const names = Object.keys(one.zone);
    async function resolver(name, type) {
        const found = one.zone[name];
        if (found === 'SERVFAIL') {
            fail('ESERVFAIL');
        }
        if (type === 'TXT' && found && found.length) {
            return found.map(text => [text]);
        }
        const exists = names.some(known => known === name || known.endsWith('.' + name));
        return fail(exists ? 'ENODATA' : 'ENOTFOUND');
    }
    const said = await dmarc({
        headerFrom: ['x@' + one.author],
        spfDomains: one.spf,
        dkimDomains: one.dkim,
        resolver
    });
    return { result: said.status.result, policy: said.policy };
}

async function main() {
    const said = [];
    for (const one of JSON.parse(fs.readFileSync(0, 'utf8'))) {
        said.push(await evaluate(one));
    }
    process.stdout.write(JSON.stringify(said));
}

main();
