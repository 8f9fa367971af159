// Why tests failed, out of their TAP: where it stands, what was expected, in ten lines at most.

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

/**
 * Reads what a tap-parser finds: counts into `tally` what passed and failed, and collects into `tally.failures`.
 * A subtest's own line follows its lines: it says nothing new, unless none of these has failed.
 */
export function read(parser, tally, trail) {
  let failed = false
  let below = null
  parser.on('child', (child) => {
    below = read(child, tally, [...trail, child.name])
  })
  parser.on('assert', (result) => {
    const subtest = below
    below = null
    const ok = result.ok || Boolean(result.todo) || Boolean(result.skip)
    if (!ok) failed = true
    if (subtest !== null && (ok || subtest())) return
    if (ok) tally.passed++
    else {
      tally.failed++
      tally.failures.push({ trail, name: result.name, diagnostic: result.diag ?? {} })
    }
  })
  return () => failed
}

export function describeFailure({ trail, name, diagnostic }) {
  const at = diagnostic.at === undefined ? [] : [`at ${diagnostic.at.fileName}:${diagnostic.at.lineNumber}`]
  const why = TOLD.filter((key) => diagnostic[key] !== undefined && diagnostic[key] !== null).flatMap((key) => {
    const value = diagnostic[key]
    const text = typeof value === 'string' ? value : JSON.stringify(value)
    return key === 'diff' || key === 'stack' ? text.split('\n') : `${key}: ${text}`.split('\n')
  })
  const text = [...at, ...why].filter((line) => line.trim() !== '').slice(0, LINES - 1)
  return [[...trail, name].filter(Boolean).join(' > '), ...text.map((line) => `   ${line.slice(0, 240)}`)].join('\n')
}
