// Part of the bundle, before everything else: stacks name the sources. Node's own way reads every map when the program starts
// (--enable-source-maps); here a map is read when the first stack wants it.

import { readFileSync } from 'node:fs'
import { SourceMap } from 'node:module'
import { fileURLToPath } from 'node:url'

const maps = new Map()

function mapOf(url) {
  if (!maps.has(url)) {
    let map = null
    try {
      map = new SourceMap(JSON.parse(readFileSync(`${fileURLToPath(url)}.map`, 'utf8')))
    } catch {
      // Without its map a place in the bundle is better than none.
    }
    maps.set(url, map)
  }
  return maps.get(url)
}

function named(frame) {
  const text = String(frame)
  const url = frame.getScriptNameOrSourceURL()
  if (!url?.startsWith('file:')) return text
  const [line, column] = [frame.getLineNumber(), frame.getColumnNumber()]
  const { originalSource, originalLine, originalColumn } = mapOf(url)?.findEntry(line - 1, column - 1) ?? {}
  if (originalSource === undefined) return text
  const source = fileURLToPath(new URL(originalSource, url))
  return text.replace(`${url}:${line}:${column}`, () => `${source}:${originalLine + 1}:${originalColumn + 1}`)
}

function heading(error) {
  try {
    return String(error)
  } catch {
    return 'an error that has no name'
  }
}

Error.prepareStackTrace = (error, frames) =>
  [heading(error), ...frames.map((frame) => `    at ${named(frame)}`)].join('\n')
