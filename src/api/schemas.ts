// The words that daemon, coordinator and CLI exchange, as JSON Schemas with their TypeScript types (TypeBox). Both ends
// validate with the same schema: a request that does not fit is refused with REQUEST_INVALID before any code sees it.

export * from './schemas/audit.js'
export * from './schemas/basic.js'
export * from './schemas/bridges.js'
export * from './schemas/capture.js'
export * from './schemas/coordinator.js'
export * from './schemas/frames.js'
export * from './schemas/health.js'
export * from './schemas/local-restore.js'
export * from './schemas/local-snapshot.js'
export * from './schemas/play.js'
export * from './schemas/recording.js'
export * from './schemas/rules.js'
export * from './schemas/switch.js'
