// Package arm is the contract of Azure Resource Manager as far as any provider shares it: resource IDs, the error
// envelope, polymorphic objects, the headers of long-running operations, system data and lists.
//
// It knows no provider, keeps no state and routes nothing: armserver serves, store keeps, service decides.
//
// The rule for JSON is lenient in, exact out: keys are bound in any letter case, and written in Azure's.
package arm
