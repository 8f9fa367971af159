// Reads TAP on stdin and prints why each test failed: where it stands, what was expected, in ten lines at most.
import { Parser } from 'tap-parser'

const LINES = 10
/** What a diagnostic has that says why, in the order in which it is told. */
const TOLD = [
  'diff',
  'found',
  'wanted',
  'message',
  'code',
  'signal',
  'exitCode',
  'expired',
  'timeout',
  'stack',
  'stderr',
]

const failures = []

/** Returns a function that tells whether anything below failed. */
function watch(parser, trail) {
  let failed = false
  let below = () => false
  parser.on('child', (child) => {
    below = watch(child, [...trail, child.name])
  })
  parser.on('assert', (result) => {
    // A subtest's own line follows its lines: it says nothing new when one of these has failed.
    const told = below()
    below = () => false
    if (result.ok || result.todo || result.skip) return
    failed = true
    if (!told) failures.push({ trail, name: result.name, diagnostic: result.diag ?? {} })
  })
  return () => failed
}

function lines({ trail, name, diagnostic }, number) {
  const at = diagnostic.at === undefined ? [] : [`at ${diagnostic.at.fileName}:${diagnostic.at.lineNumber}`]
  const why = TOLD.filter((key) => diagnostic[key] !== undefined && diagnostic[key] !== null).flatMap((key) => {
    const value = diagnostic[key]
    const text = typeof value === 'string' ? value : JSON.stringify(value)
    return key === 'diff' || key === 'stack' ? text.split('\n') : `${key}: ${text}`.split('\n')
  })
  const text = [...at, ...why].filter((line) => line.trim() !== '').slice(0, LINES - 1)
  return [
    `${number}. ${[...trail, name].filter(Boolean).join(' > ')}`,
    ...text.map((line) => `   ${line.slice(0, 240)}`),
  ]
}

const root = new Parser({ strict: false })
watch(root, [])
root.on('complete', () => {
  for (const [i, failure] of failures.entries()) console.log(lines(failure, i + 1).join('\n'))
})
process.stdin.pipe(root)
