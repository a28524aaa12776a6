// One engine through the public suite: its server and its assertions, our choice of tests, and
// `fetch` from ENGINE.mjs. Prints the results as JSON.
//   node suite.mjs ENGINE DIR [ID…]        DIR is the suite, as on npm or as in its repository
import fs from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'

const [engineName, suite, ...ids] = process.argv.slice(2)
const AT_ONCE = 80 // tests; most of their time is pauses of three seconds

const engineDir = ['test-engine', '.'].map(name => path.join(suite, name))
  .find(name => fs.existsSync(path.join(name, 'client', 'test.mjs')))
const load = name => import(path.join(engineDir, name))

const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'orc-conformance-'))
process.on('exit', () => fs.rmSync(scratch, { recursive: true }))

// What the suite says goes to stderr: stdout is for the results.
if (ids.length > 0) console.log = console.error
else console.log = () => {}

// Its server listens on all interfaces, and at a port of its choice.
function startServer () {
  process.env.npm_config_protocol = 'http'
  process.env.npm_config_port = '0'
  process.env.npm_config_pidfile = path.join(scratch, 'pid')
  return new Promise((resolve, reject) => {
    const listen = net.Server.prototype.listen
    net.Server.prototype.listen = function () {
      net.Server.prototype.listen = listen
      this.once('listening', () => resolve(`http://127.0.0.1:${this.address().port}`))
      this.once('error', reject)
      return listen.call(this, 0, '127.0.0.1')
    }
    load('server/server.mjs').catch(reject)
  })
}

// The tests of a private cache, which is what the suite calls a browser's.
async function chosen () {
  const { default: groups } = await import(path.join(suite, 'tests', 'index.mjs'))
  return groups.flatMap(group => group.tests)
    .filter(test => !test.browser_skip && !test.cdn_only)
    .filter(test => ids.length === 0 || ids.includes(test.id))
}

const base = await startServer()
const config = await load('client/config.mjs')
const { makeCacheTest, makeTest = makeCacheTest, testResults } = await load('client/test.mjs')
const engine = await (await import(`./${engineName}.mjs`)).start(scratch)
config.setBaseUrl(base)
config.setUseBrowserCache(true)
config.setFetch?.(engine.fetch)
globalThis.fetch = engine.fetch

const tests = await chosen()
if (tests.length === 0) throw new Error(`no test ${ids.join(' ')} for a private cache`)

// The suite writes into the tests it is given, so each run has its own copy.
async function run (test) {
  delete testResults[test.id]
  await makeTest({ ...structuredClone(test), dump: ids.length > 0 })
}

async function runAll (list, atOnce) {
  const waiting = [...list]
  const worker = async () => {
    for (let test = waiting.shift(); test; test = waiting.shift()) await run(test)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

await runAll(tests, AT_ONCE)
// Some have two seconds for what a busy machine may not do in time: they have another try.
if (ids.length === 0) await runAll(tests.filter(test => testResults[test.id] !== true), AT_ONCE)

await engine.stop()
process.stdout.write(JSON.stringify(tests.map(test => ({
  id: test.id,
  name: test.name,
  kind: test.kind ?? 'required',
  needs: test.depends_on ?? [],
  result: testResults[test.id]
}))), () => process.exit(0)) // the suite's server has no end
