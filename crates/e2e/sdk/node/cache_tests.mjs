// Runs the public tests of HTTP caches (cache-tests.fyi), unmodified, against a node: `node cache_tests.mjs DOMAIN PORT [TEST ...]`.
// Prints what did not pass of what a cache has to do and what a good one does: a JSON object, test to what was wrong.
// Tests that only ask what a cache does, with no right answer, are left out.

import http from 'node:http'
import fetch from 'node-fetch'
import { getResults, runTests } from 'http-cache-tests/client/runner.mjs'
import suites from 'http-cache-tests/tests/index.mjs'

const [domain, port, ...chosen] = process.argv.slice(2)
const judged = suites.flatMap(suite => suite.tests).filter(test => test.kind !== 'check' && !test.browser_only)
const tests = judged.filter(test => chosen.length === 0 || chosen.includes(test.id))

// The domain is on this machine, whatever a resolver says.
const lookup = (_, options, done) => {
  if (options.all) done(null, [{ address: '127.0.0.1', family: 4 }])
  else done(null, '127.0.0.1', 4)
}
const agent = new http.Agent({ lookup })

await runTests([{ tests }], (url, init) => fetch(url, { ...init, agent }), false, `http://${domain}:${port}`)
const wrong = Object.entries(getResults()).filter(([, result]) => result !== true)
console.log(JSON.stringify({ ran: tests.length, wrong: Object.fromEntries(wrong) }))
