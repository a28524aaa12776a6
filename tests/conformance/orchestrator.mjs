// The program as the suite's `fetch`: client.lua takes requests from a response that has no end,
// a line of JSON each, and posts what came of them.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import http from 'node:http'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const PATIENCE = 30_000

class Answer {
  constructor ({ status, headers, body }) {
    this.status = status
    this.statusText = ''
    this.headers = new Headers()
    for (const [name, value] of Object.entries(headers)) {
      // Cookies may have commas: they are joined by line breaks.
      for (const one of name === 'set-cookie' ? value.split('\n') : [value]) {
        this.headers.append(name, one)
      }
    }
    this.text = async () => body
  }
}

async function read (request) {
  let text = ''
  for await (const piece of request.setEncoding('utf8')) text += piece
  return text
}

export async function start (scratch) {
  const pending = new Map()
  let jobs
  let program

  const fail = message => {
    console.error(message)
    program?.kill()
    process.exit(1)
  }

  let asked
  const ready = new Promise(resolve => { asked = resolve })

  const server = http.createServer(async (request, response) => {
    if (request.method === 'GET') {
      jobs = response
      response.writeHead(200, { 'Content-Type': 'application/jsonl' })
      response.flushHeaders()
      asked()
      return
    }
    const { id, answer, problem } = JSON.parse(await read(request))
    response.end()
    const { resolve, reject } = pending.get(id)
    pending.delete(id)
    // As the standard has it: what is no answer is a TypeError.
    if (answer) resolve(new Answer(answer))
    else reject(new TypeError(problem))
  })
  server.keepAliveTimeout = 0 // or it might hang up on an answer
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))

  const environment = Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name))
  const args = [fileURLToPath(new URL('client.lua', import.meta.url)), '-q',
    '--state-dir', path.join(scratch, 'state'), `harness=http://127.0.0.1:${server.address().port}`]
  program = spawn(process.env.ORCHESTRATOR_BIN, args, {
    cwd: scratch, env: Object.fromEntries(environment), stdio: ['ignore', 'inherit', 'inherit']
  })
  const ended = new Promise(resolve => program.on('exit', (code, signal) => resolve(code ?? signal)))
  let stopping = false
  ended.then(code => stopping || fail(`the program ended too early: ${code}`))
  program.on('error', error => fail(`the program cannot be run: ${error.message}`))
  const timer = setTimeout(() => fail('the program did not ask for jobs'), PATIENCE)
  await ready
  clearTimeout(timer)

  let last = 0
  return {
    fetch: (url, init = {}) => new Promise((resolve, reject) => {
      const id = ++last
      pending.set(id, { resolve, reject })
      jobs.write(JSON.stringify({
        id,
        url,
        method: init.method ?? 'GET',
        headers: Object.fromEntries(new Headers(init.headers)), // joined and trimmed as fetch does
        body: init.body,
        mode: init.cache,
        follow: init.redirect !== 'manual'
      }) + '\n')
    }),
    stop: async () => {
      stopping = true
      jobs.end()
      const code = await ended
      server.close()
      if (code !== 0) fail(`the program ended with ${code}`)
      if (!fs.existsSync(path.join(scratch, 'state', 'cache.db'))) fail('there is no cache.db')
    }
  }
}
