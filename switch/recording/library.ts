// All that the command needs to replay a run, in one: it is loaded when it is asked for.

export { changesOf } from './changes.js'
export { compareRuns } from './compare.js'
export { gapInWords, Narrator } from './narrator.js'
export { Replay } from './replay.js'
export { piecesOf } from './source.js'
export { viewOf } from './view.js'
