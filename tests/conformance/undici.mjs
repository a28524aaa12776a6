// undici's cache interceptor as a private cache, set up as in its own run of the suite.
import path from 'node:path'
import { pathToFileURL } from 'node:url'

export async function start () {
  const file = path.join(process.env.MODULES, 'undici', 'index.js')
  const { default: { Agent, fetch, interceptors } } = await import(pathToFileURL(file))
  const dispatcher = new Agent().compose(
    interceptors.cache({ type: 'private', methods: ['GET', 'HEAD'] }))
  return {
    fetch: (url, init) => fetch(url, { ...init, dispatcher }),
    stop: () => {}
  }
}
