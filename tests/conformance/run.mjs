// Runs the engines, counts what they pass, and tells what the program does not pass and why.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))
const suite = path.resolve(process.env.CACHE_TESTS ??
  path.join(process.env.MODULES, 'http-cache-tests'))
const recorded = JSON.parse(fs.readFileSync(path.join(here, 'recorded.json')))
const args = process.argv.slice(2)
const ids = args.filter(arg => arg !== '--undici')
const KINDS = ['required', 'optimal']
const NODE_OF_UNDICI = 20

function run (engine) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(here, 'suite.mjs'), engine, suite, ...ids],
      { stdio: ['ignore', 'pipe', 'inherit'] })
    let text = ''
    child.stdout.setEncoding('utf8').on('data', piece => { text += piece })
    child.on('close', code => {
      if (code === 0) resolve(JSON.parse(text))
      else reject(new Error(`${engine}: the suite ended with ${code}`))
    })
  })
}

// As the suite's own site counts: a test counts as passed when those it builds on are, too.
function passes (test, byId) {
  return test.result === true &&
    test.needs.every(id => !byId.has(id) || passes(byId.get(id), byId))
}

function tally (tests) {
  const byId = new Map(tests.map(test => [test.id, test]))
  const counts = {}
  for (const kind of [...KINDS, 'check']) {
    const all = tests.filter(test => test.kind === kind)
    counts[kind] = { passed: all.filter(test => passes(test, byId)).length, of: all.length }
  }
  const missed = tests.filter(test => KINDS.includes(test.kind) && !passes(test, byId))
  return { counts, missed }
}

function problem (test) {
  if (test.result === true) return `depends on ${test.needs.join(', ')}`
  return test.result[1].replace(/ \(\w+ http[^)]*\)$/, '')
}

const showTally = (name, count) => console.log('  ' + name.padEnd(28) +
  KINDS.map(kind => `${String(count[kind]).padStart(4)} of ${count.of[kind]} ${kind}`).join(', '))

const numbers = counts => ({
  ...Object.fromEntries(KINDS.map(kind => [kind, counts[kind].passed])),
  of: Object.fromEntries(KINDS.map(kind => [kind, counts[kind].of]))
})

const besides = args.includes('--undici') &&
  parseInt(process.versions.node) >= NODE_OF_UNDICI
const began = Date.now()
const [ours, theirs] = await Promise.all([run('orchestrator'), besides ? run('undici') : null])

if (ids.length > 0) {
  for (const tests of [ours, theirs ?? []]) {
    for (const test of tests) {
      console.log(`${test.kind} ${test.id}: ${test.result === true ? 'passed' : problem(test)}`)
    }
  }
  process.exit(ours.every(test => test.result === true) ? 0 : 1)
}

const { counts, missed } = tally(ours)
const totals = KINDS.map(kind => counts[kind].of).join('/')
const known = recorded.suites[totals]
console.log('Passed, of the tests for a private cache:')
showTally('orchestrator', numbers(counts))
const { of } = numbers(counts)
for (const [name, count] of Object.entries(known?.others ?? {})) {
  const now = theirs && name.startsWith('undici')
  showTally(name, now ? numbers(tally(theirs).counts) : { ...count, of })
}
console.log(`  of ${counts.check.of} that only ask, ${counts.check.passed} are answered with yes`)

let failed = false
const fail = text => {
  failed = true
  console.log(`FAILED: ${text}`)
}

console.log('Not passed:')
for (const reason of Object.keys(recorded.reasons)) {
  const group = missed.filter(test => recorded.reasons[reason].includes(test.id))
  if (group.length === 0) continue
  console.log(`  ${reason}`)
  for (const test of group) {
    console.log(`    ${test.kind.padEnd(8)} ${test.id.padEnd(42)} ${problem(test)}`)
  }
}
const explained = new Set(Object.values(recorded.reasons).flat())
for (const test of missed.filter(test => !explained.has(test.id))) {
  fail(`${test.kind} ${test.id}: ${problem(test)}`)
}

if (!known) fail(`no counts are recorded for a suite of ${totals}`)
for (const kind of known ? KINDS : []) {
  const now = counts[kind].passed
  if (now < known.orchestrator[kind]) {
    fail(`${now} ${kind}, and ${known.orchestrator[kind]} are recorded`)
  } else if (now > known.orchestrator[kind]) {
    console.log(`More ${kind} than recorded.json has: ${now}, not ${known.orchestrator[kind]}`)
  }
}
console.log(`Ran ${ours.length} tests in ${Math.round((Date.now() - began) / 1000)} s`)
process.exit(failed ? 1 : 0)
