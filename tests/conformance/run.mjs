// Runs the engines, counts what they pass, and tells what the program does not pass and why: on
// stdout, and in the file "report" beside the installed suite.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const here = path.dirname(fileURLToPath(import.meta.url))
const suite = path.resolve(process.env.CACHE_TESTS ??
  path.join(process.env.MODULES, 'http-cache-tests'))
const recorded = JSON.parse(fs.readFileSync(path.join(here, 'recorded.json')))
const args = process.argv.slice(2)
const ids = args.filter(arg => arg !== '--alone')
const KINDS = ['required', 'optimal']
const report = path.join(path.dirname(process.env.MODULES), 'report')
const lines = []
const children = []

function say (text) {
  console.log(text)
  lines.push(text)
}

// Whether this node has what undici needs.
function canUndici () {
  const file = path.join(process.env.MODULES, 'undici', 'package.json')
  const least = JSON.parse(fs.readFileSync(file)).engines.node.match(/\d+/g).map(Number)
  const here = process.versions.node.match(/\d+/g).map(Number)
  const at = least.findIndex((number, i) => number !== here[i])
  return at === -1 || here[at] > least[at]
}

function run (engine) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [path.join(here, 'suite.mjs'), engine, suite, ...ids],
      { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
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

const showTally = (name, count, note = '') => say('  ' + name.padEnd(28) +
  KINDS.map(kind => `${String(count[kind]).padStart(4)} of ${count.of[kind]} ${kind}`).join(', ') +
  note)

const numbers = counts => ({
  ...Object.fromEntries(KINDS.map(kind => [kind, counts[kind].passed])),
  of: Object.fromEntries(KINDS.map(kind => [kind, counts[kind].of]))
})

const besides = ids.length === 0 && !args.includes('--alone')
const began = Date.now()
const [theirs, ours] =
  await Promise.all([besides && canUndici() ? run('undici') : null, run('orchestrator')])
    .catch(error => {
      for (const child of children) child.kill()
      console.error(error.message)
      process.exit(1)
    })

if (ids.length > 0) {
  for (const test of ours) {
    console.log(`${test.kind} ${test.id}: ${test.result === true ? 'passed' : problem(test)}`)
  }
  process.exit(ours.every(test => test.result === true) ? 0 : 1)
}

const { counts, missed } = tally(ours)
const totals = KINDS.map(kind => counts[kind].of).join('/')
const known = recorded.suites[totals]
say('Passed, of the tests for a private cache:')
const { of } = numbers(counts)
for (const [name, count] of Object.entries(known?.others ?? {})) {
  if (!name.startsWith('undici')) showTally(name, { ...count, of })
  else if (theirs) showTally(name, numbers(tally(theirs).counts))
  else showTally(name, { ...count, of }, besides ? ` (recorded: not for ${process.version})` : '')
}
showTally('orchestrator', numbers(counts))
say(`  of ${counts.check.of} that only ask, ${counts.check.passed} are answered with yes`)

let failed = false
const fail = text => {
  failed = true
  say(`FAILED: ${text}`)
}

say('Not passed:')
for (const reason of Object.keys(recorded.reasons)) {
  const group = missed.filter(test => recorded.reasons[reason].includes(test.id))
  if (group.length === 0) continue
  say(`  ${reason}`)
  for (const test of group) {
    say(`    ${test.kind.padEnd(8)} ${test.id.padEnd(42)} ${problem(test)}`)
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
    say(`More ${kind} than recorded.json has: ${now}, not ${known.orchestrator[kind]}`)
  }
}
say(`Ran ${ours.length} tests in ${Math.round((Date.now() - began) / 1000)} s`)
fs.writeFileSync(report, lines.join('\n') + '\n')
process.exit(failed ? 1 : 0)
